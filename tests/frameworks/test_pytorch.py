"""PyTorch: its flavour, and autologging of Lightning's trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from harness.situation import Situation

torch: Any = pytest.importorskip("torch")

EPOCHS = 3


def network() -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))


def module(lightning: Any) -> Any:
    """A Lightning module; one of its classes is there only where Lightning is."""

    class Module(lightning.LightningModule):  # type: ignore[misc]  # Lightning is not there where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, index: int) -> Any:
            features, target = batch
            loss = torch.nn.functional.mse_loss(self.network(features), target)
            self.log("train_loss", loss, on_epoch=True, on_step=False)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def test_the_flavour(situation: Situation) -> None:
    import mlflow

    with situation.stage(), mlflow.start_run():
        trained, loss = network(), torch.nn.MSELoss()
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        features, target = torch.ones(8, 2), torch.ones(8, 1)
        mlflow.log_param("lr", 0.1)
        for epoch in range(EPOCHS):
            optimizer.zero_grad()
            error = loss(trained(features), target)
            error.backward()
            optimizer.step()
            mlflow.log_metric("loss", error.item(), step=epoch)
            if epoch == 0:
                situation.strike()
            mlflow.pytorch.log_model(trained, name=f"checkpoint-{epoch}", step=epoch, serialization_format="pickle")
        expected = trained(features[:1]).item()

    assert len(situation.client.get_metric_history(situation.run_id, "loss")) == EPOCHS
    run = situation.run
    assert run.outputs is not None
    assert sorted(output.step for output in run.outputs.model_outputs) == list(range(EPOCHS))
    models = {model.name: model for model in situation.models()}
    assert models.keys() == {f"checkpoint-{epoch}" for epoch in range(EPOCHS)}
    last = models[f"checkpoint-{EPOCHS - 1}"]
    (loaded,) = situation.load(mlflow.pytorch, last.model_uri)
    assert loaded(torch.ones(1, 2)).item() == pytest.approx(expected)


def test_autologging_of_lightning(situation: Situation) -> None:
    import mlflow

    lightning: Any = pytest.importorskip("lightning")

    rows = torch.utils.data.TensorDataset(torch.ones(16, 2), torch.ones(16, 1))
    with situation.stage():
        mlflow.pytorch.autolog(silent=True)
        situation.strike()
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu"
        )
        trainer.fit(module(lightning), torch.utils.data.DataLoader(rows, batch_size=8))

    history = situation.client.get_metric_history(situation.run_id, "train_loss")
    assert sorted(point.step for point in history) == list(range(EPOCHS))
    assert situation.run.data.params["epochs"] == str(EPOCHS)
    (model,) = situation.models()
    assert str(model.status) == "READY"
    (loaded,) = situation.load(mlflow.pytorch, model.model_uri)
    assert loaded.network(torch.ones(1, 2)).shape == (1, 1)


def test_the_logger_of_lightning(situation: Situation, tmp_path: Path) -> None:
    loggers: Any = pytest.importorskip("lightning.pytorch.loggers")
    lightning: Any = pytest.importorskip("lightning")
    rows = torch.utils.data.TensorDataset(torch.ones(16, 2), torch.ones(16, 1))
    with situation.stage():
        situation.strike()
        logger = loggers.MLFlowLogger(
            experiment_name=situation.workflow, tracking_uri=situation.uri, run_name="lightning", log_model=False
        )
        logger.log_hyperparams({"lr": 0.1})
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, logger=logger, enable_progress_bar=False, log_every_n_steps=1, accelerator="cpu",
            enable_checkpointing=False, default_root_dir=str(tmp_path),
        )  # fmt: skip
        trainer.fit(module(lightning), torch.utils.data.DataLoader(rows, batch_size=8))

    (run,) = situation.below()
    assert (run.info.run_name, run.info.status, run.data.params["lr"]) == ("lightning", "FINISHED", "0.1")
    assert len(situation.client.get_metric_history(run.info.run_id, "train_loss")) == EPOCHS
