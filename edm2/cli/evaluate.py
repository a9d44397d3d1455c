"""`edm2 evaluate`: the evaluation of a sweep, shared by any number of launches."""

import click

from edm2.cli.project import ProjectContext


@click.command()
@click.argument("training")
@click.pass_obj
def evaluate(project: ProjectContext, training: str) -> None:
    """Evaluate the networks of TRAINING's sweep, together with other launches of this command.

    This is the work of the stage `fid`: networks, strengths and seed blocks that no other launch evaluates.
    It ends when all are done, and publishes nothing: `dvc repro` does, and then computes nothing. Launches
    may start and end at any time, on any machine that sees the project's folder. The stages before must be
    complete: dvc repro reference sweep_ema@TRAINING. On several GPUs, one launch each, or:
    torchrun --nproc_per_node=8 --no-python edm2 evaluate TRAINING

    A TRAINING is a config, a hyphen and a seed, like G-0; G, if there is one seed.
    """
    from edm2.params import load

    root = project.enter()
    params = load(root / "params.yaml")
    replicate = params.replicate(training, f"training {training}", "params.yaml")
    from edm2.pipeline.detection import external_inputs
    from edm2.pipeline.runner import share_stage
    from edm2.pipeline.sweep_evaluation import share_evaluation

    share_stage("fid", share_evaluation, params, replicate, external_inputs)
