"""Other libraries' pipelines: `redrift.integrations.diffusers` (extra "diffusers")."""
