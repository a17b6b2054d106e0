"""What every example shares: flags, seeds, checkpoints, data-parallel training, claims, report and figures.

An example is a module ``examples/<slug>.py`` with four names, and nothing else:

.. code-block:: python

    '''Poincaré ResNet (ICCV 2023) on scikit-learn's digits: what is reproduced and what differs from the paper.'''

    from dataclasses import dataclass
    from functools import partial

    from matplotlib.figure import Figure       # inside plot(): matplotlib loads only when figures are drawn

    from holonomy.examples.data.digits import Digits, load_digits
    from holonomy.examples.harness import Claim, Log, Measurements, Report, Trial


    @dataclass(frozen=True)
    class Config:
        '''Small by default. Every field is a flag of ``holonomy run <slug>``; its docstring is the flag's help.'''

        epochs: int = 6
        '''Passes over the training set.'''
        lr: float = 3e-3
        '''Adam's step size.'''
        seeds: tuple[int, ...] = (0, 1)         # the one field that the harness asks for
        '''Seeds; each variant runs once a seed.'''

        @classmethod
        def full(cls) -> "Config":
            '''The paper's own scale (``--full``).'''
            return cls(epochs=100, lr=1e-3)


    def train(trial: Trial, config: Config, data: Digits, init: str) -> Measurements:
        # torch's and numpy's global generators are seeded with trial.seed before this is called
        model = PoincareResNet(10, init=init).to(trial.device)
        history = trial.fit(
            model,
            RiemannianAdam(model.parameters(), lr=config.lr),
            data.train,                          # tuple of tensors with one leading length
            loss=lambda model, x, y: cross_entropy(model(x), y),
            epochs=config.epochs,
            batch_size=64,
            evaluate=lambda model: {"accuracy": accuracy(model, *data.test)},
        )                                        # {"loss": [one a epoch], "accuracy": [one a epoch]}
        return {"accuracy": history["accuracy"][-1], "curve": history["accuracy"]}


    def run(config: Config, log: Log) -> Report:
        data = load_digits(log.data).to(log.device)
        return log.sweep(
            {
                "poincare": partial(train, config=config, data=data, init="identity"),
                "ablation": partial(train, config=config, data=data, init="hnn"),
            },
            seeds=config.seeds,
        )                                        # one trial a variant and seed; --resume keeps the finished


    CLAIMS = [
        Claim("Poincaré ResNet classifies the digits", lambda report: report["poincare", "accuracy"], at_least=0.92),
        Claim("ablation, HNN++'s init", lambda report: report["ablation", "accuracy"], at_least=0.92, fails=True),
    ]


    def plot(report: Report) -> dict[str, Figure]:
        figure, axes = new_figure("test accuracy", x="epoch", y="accuracy")
        axes.plot(report["poincare", "curve"].mean(axis=0))
        return {"accuracy": figure}              # written as accuracy.png

``report[variant, name]`` is a float64 array whose first axis is the seeds. A loop that ``trial.fit`` does not cover is
made resumable and data-parallel-aware by ``for step in trial.steps(total, model=model, optimizer=optimizer): ...``.
A variant may be any measurement that takes a trial; those that the first seed is enough for go into ``once=``, and two
reports are joined by ``|``. Under ``torchrun`` the same module trains data-parallel.
"""

from holonomy.examples.harness.claims import Claim as Claim
from holonomy.examples.harness.figures import new_figure as new_figure
from holonomy.examples.harness.log import Log as Log
from holonomy.examples.harness.report import Measurements as Measurements
from holonomy.examples.harness.report import Report as Report
from holonomy.examples.harness.running import Example as Example
from holonomy.examples.harness.running import Options as Options
from holonomy.examples.harness.running import execute as execute
from holonomy.examples.harness.trial import Trial as Trial
