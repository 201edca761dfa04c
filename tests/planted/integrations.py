"""Planted bugs of `integrations`."""

from planted import bug

BUGS = [
    bug(
        "a run entered in the middle whose first evaluation is not where the host was told",
        "integrations._program:enter",
        "StartUp, FirstEvaluation",
        "StartUp",
        "test_ahead.py::test_a_run_entered_in_the_middle_asks_where_the_host_was_told",
    ),
    bug(
        "program: a folded conversion without its factor",
        "integrations._program:_Recorder._sum",
        "* (P or Q)",
        "* Q",
        "test_program.py::test_a_compiled_plan_takes_the_steps_of_sample[res-3-eps]",
    ),
    bug(
        "program: the state of a stage taken for that of the step",
        "integrations._program:_Recorder._ask",
        "request.z is self.state or not self.moves",
        "True",
        "test_program.py::test_a_compiled_plan_takes_the_steps_of_sample[res-3-eps]",
    ),
    bug(
        "program: a run entered with the rows of the whole plan",
        "integrations._program:enter",
        "[*rows, *rest.rows]",
        "[*rows, *list(plan.rows)[j:]]",
        "test_program.py::test_entering_at_a_step_boundary_is_the_plan_started_there[deis]",
    ),
]
