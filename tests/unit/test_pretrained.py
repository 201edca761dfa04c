"""The shipped classifiers are what their cards say."""

import pytest
import torch

from redrift.pretrained import classifier, classifier_card, names


def test_the_digits_classifier_reaches_its_accuracy_on_held_out_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 8 - 1
    # the split of training/digits.py
    held = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:180]
    right = classifier("digits")(images[held]).argmax(1) == torch.from_numpy(labels)[held]
    card = classifier_card("digits")
    assert card["test_pictures"] == len(held)
    # half precision on disk may turn one picture
    assert right.double().mean() >= card["test_accuracy"] - 1.01 / len(held)


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 8, 8)), ("cifar10", (3, 32, 32))])
def test_a_classifier_maps_pictures_to_features_and_states_its_licence(name, shape):
    net, card = classifier(name), classifier_card(name)
    with torch.no_grad():
        images = torch.zeros(2, *shape)
        assert net.features(images).shape == (2, 64)
        assert net(images).shape == (2, len(card["labels"]))
    assert not net.training
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert card["licence"]
    assert card["test_accuracy"] > 0.75


def test_classifiers_are_not_among_the_models_to_sample():
    assert "digits" in names()
    assert all("classifier" not in name for name in names())
    with pytest.raises(ValueError, match="'cifar10'"):
        classifier("cifar")
