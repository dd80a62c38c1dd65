"""From an LLM run to a teacher's folder to a student: the command, the model, mistakes, learning."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recbole_soft import cli
from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.errors import ModelError, SettingError
from recbole_soft.rank_losses.distillation import importance_weights, ranking_losses
from recbole_soft.rank_losses.dro import robust_losses
from recbole_soft.registry import model_family
from recbole_soft.run import run_recbole_soft
from recbole_soft.teacher import Teacher, write_teacher
from tests.baselines.test_dro import build

NAMES = ("DLLM2Rec", "DLLM2Rec_GRU4Rec", "DLLM2Rec_Caser")


@pytest.fixture(scope="module")
def llm_run(toy_path, shared_artifacts, tmp_path_factory) -> Path:
    """Folder of a short BIGRec run."""
    settings = {
        "data_path": str(toy_path), "checkpoint_dir": str(tmp_path_factory.mktemp("runs")),
        "artifacts_dir": str(shared_artifacts), "show_progress": False, "state": "WARNING",
        "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)", "train_sample": 64,
        "valid_sample": 16, "test_sample": 24, "epochs": 1, "train_batch_size": 16, "micro_batch_size": 8,
        "tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2, "tiny_vocabulary": 400, "tiny_steps": 20,
        "tiny_batch_size": 8, "max_new_tokens": 8, "num_beams": 2, "topk": [1, 5, 10, 20]}
    return Path(run_recbole_soft("BIGRec_SFT", "toy", config_dict=settings)["record_path"]).parent


@pytest.fixture(scope="module")
def teacher(llm_run, tmp_path_factory) -> Path:
    """What `export-teacher` writes for it."""
    out = tmp_path_factory.mktemp("teacher") / "out"
    assert cli.main(["export-teacher", f"--run={llm_run}", f"--out={out}", "--sample=40", "--topk=6"]) == 0
    return out


# ---- the command ---------------------------------------------------------------------------------
@pytest.mark.parametrize("model", ["BIGRec_ZeroShot", "BIGRec_ICL"])
def test_an_untrained_model_teaches_unless_it_needs_demonstrations(llm_run, toy_settings, tmp_path, model, capsys):
    run = Path(run_recbole_soft(model, "toy", config_dict=toy_settings())["record_path"]).parent
    code = cli.main(["export-teacher", f"--run={run}", f"--out={tmp_path / 'out'}", "--sample=8"])
    if model == "BIGRec_ICL":
        assert code == 2 and "answers with demonstrations" in capsys.readouterr().err
    else:
        assert code == 0 and load_file(tmp_path / "out" / "teacher.safetensors")["vectors"].shape == (25, 32)


def test_the_folder_holds_vectors_lists_and_where_they_are_from(teacher, llm_run, toy_settings):
    about = json.loads((teacher / "teacher.json").read_text())
    files = load_file(teacher / "teacher.safetensors")
    assert about["windows"] == 40 and about["model"] == "BIGRec_SFT" and about["stage"] == "sft"
    assert files["vectors"].shape == (25, 32) and (files["vectors"][0] == 0).all()
    assert files["items"].shape == files["distances"].shape == (40, 6)
    config = SoftConfig("SASRec", "toy", config_dict=toy_settings(train_sample="full"))
    from recbole.data import data_preparation

    from recbole_soft.data.dataset import SoftDataset

    train, valid, test = (loader.dataset for loader in data_preparation(config, SoftDataset(config)))
    assert about["data"] == train.sequences_fingerprint()
    training = set(train.inter_feat["window_id"].tolist())
    assert set(files["window_ids"].tolist()) <= training
    assert not training & set(test.inter_feat["window_id"].tolist() + valid.inter_feat["window_id"].tolist())
    targets = dict(zip(train.inter_feat["window_id"].tolist(), train.inter_feat["item_id"].tolist(), strict=True))
    for window, items, distances in zip(files["window_ids"].tolist(), files["items"].tolist(),
                                        files["distances"].tolist(), strict=True):
        listed = [item for item in items if item]
        assert len(set(listed)) == len(listed) > 0
        seen = set(train.items_before(torch.tensor([window]).numpy())[0].tolist()) - {targets[window]}
        assert not seen & set(listed)
        assert distances[:len(listed)] == sorted(distances[:len(listed)])


def test_lists_are_the_ranking_of_the_run(teacher, llm_run, toy_settings):
    """The exported list is what the trained weights answer, not what the base model does."""
    from recbole_soft.export_teacher import _open, _record

    model, train = _open(_record(llm_run), llm_run, "sft", {"train_sample": 40})
    files = load_file(teacher / "teacher.safetensors")
    scores = model.full_sort_predict(train.inter_feat[torch.arange(5)])
    for row in range(5):
        items = files["items"][row].long()
        kept = items > 0
        assert (-scores[row, items[kept]]).tolist() == pytest.approx(files["distances"][row][kept].tolist(), rel=1e-5)


@pytest.mark.parametrize(("words", "expected"), [
    ([], "--run is missing"), (["--rum=x"], "did you mean run"), (["--run=nowhere", "--out=x"], "no readable record"),
    (["--run={run}", "--out=x", "--sample=-3"], "sample = -3: must be an integer"),
    (["--run={run}", "--out=x", "--stage=sfd"], "no stage 'sfd'(.|\n)*did you mean sft"),
    (["--run={run}", "--out=x", "--sample=99999"], "only \\d+ train windows"),
])
def test_mistakes_end_in_one_message(words, expected, llm_run, capsys):
    import re

    words = [word.format(run=llm_run) for word in words] or ["--out=x"]
    assert cli.main(["export-teacher", *words]) == 2
    message = capsys.readouterr().err
    assert re.search(expected, message) and "Traceback" not in message


def test_help_names_command_and_models(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "export-teacher" in text and all(f"\n    {name} " in text for name in (*NAMES, "DROS_Caser"))
    assert cli.main(["export-teacher", "--help"]) == 0 and "--sample=N" in capsys.readouterr().out


def test_a_run_of_a_traditional_model_cannot_teach(toy_settings):
    from recbole_soft.export_teacher import export_teacher

    run = run_recbole_soft("Pop", "toy", config_dict=toy_settings(epochs=1))
    with pytest.raises(ModelError, match="Pop is no LLM method"):
        export_teacher(Path(run["record_path"]).parent, Path("out"))


# ---- settings and data ---------------------------------------------------------------------------
def test_a_student_without_a_teacher_is_told_how_to_make_one(toy_settings, tmp_path):
    with pytest.raises(SettingError, match=r"teacher is missing(.|\n)*export-teacher --run="):
        SoftConfig("DLLM2Rec", "toy", config_dict=toy_settings())
    with pytest.raises(SettingError, match=r"no teacher.json"):
        SoftConfig("DLLM2Rec", "toy", config_dict=toy_settings(teacher=str(tmp_path)))
    assert all(model_family(name) == "traditional" for name in NAMES)


@pytest.mark.parametrize("change", [
    {"item_inter_num_interval": "[3,20]"}, {"MAX_ITEM_LIST_LENGTH": 5}, {"window": "prefix"},
    {"eval_args": {"split": {"RS": [6, 2, 2]}, "order": "TO", "group_by": "none", "mode": "full"}},
])
def test_a_teacher_of_other_data_is_refused(change, teacher, toy_settings):
    if "item_inter_num_interval" in change:
        change = {"user_inter_num_interval": "[2,inf)", "duplicate_titles": "keep", "MAX_ITEM_LIST_LENGTH": 9}
    with pytest.raises(ModelError, match="made from other data"):
        build("DLLM2Rec", toy_settings, teacher=str(teacher), **change)


def test_damaged_folders_are_refused(teacher, tmp_path, toy_settings):
    import shutil

    copy = Path(shutil.copytree(teacher, tmp_path / "copy"))
    tensors = copy / "teacher.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:200])
    with pytest.raises(ModelError, match="cannot be read"):
        build("DLLM2Rec", toy_settings, teacher=str(copy))
    (copy / "teacher.json").write_text('{"format": 1}')
    with pytest.raises(ModelError, match="cannot be read"):
        build("DLLM2Rec", toy_settings, teacher=str(copy))


# ---- the model -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_vectors_enter_the_input_and_not_the_scores(name, teacher, toy_settings):
    model, batch, _ = build(name, toy_settings, teacher=str(teacher))
    plain, _, _ = build(name.replace("DLLM2Rec", "DROS"), toy_settings)
    model.eval(), plain.eval()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "projection" not in key})
    table = model.item_embedding
    items = torch.tensor([[3, 0, 7]])
    expected = table.weight[items] + 0.3 * table.projection(table.vectors[items]) * (items > 0)[..., None]
    assert torch.allclose(table(items), expected) and torch.equal(table(items)[0, 1], table.weight[0])
    assert torch.allclose(table(torch.arange(25).repeat(3)), table(torch.arange(24)).new_tensor(
        torch.cat([table(torch.arange(24)), table(torch.tensor([24]))]).repeat(3, 1).tolist()), atol=1e-6)
    assert not torch.allclose(model.item_scores(batch), plain.item_scores(batch))
    model.item_embedding.strength = 0.0
    assert torch.allclose(model.item_scores(batch), plain.item_scores(batch), atol=1e-6)
    assert table.vectors[1:].norm(dim=1).mean().item() == pytest.approx(1.0, rel=1e-5)


def test_windows_without_a_list_take_no_part(teacher, toy_settings):
    model, _, train = build("DLLM2Rec", toy_settings, teacher=str(teacher), train_sample="full")
    batch = train.inter_feat[torch.arange(len(train))]
    rows = model.list_rows[batch["window_id"]]
    has_list = rows >= 0
    assert int(has_list.sum()) == 40 < len(train)
    model.eval()
    torch.manual_seed(1)
    loss = model.calculate_loss(batch)
    torch.manual_seed(1)
    scores, negatives = model.item_scores(batch), model.negatives(batch)
    base = model.robust_base_loss(scores, batch["item_id"], negatives)
    items, s, n = model.list_items[rows[has_list]], scores[has_list], negatives[has_list]
    own = 1 + s[:, 1:].topk(items.shape[1]).indices
    weights = importance_weights(items, model.list_distances[rows[has_list]], model.distance_scale, own,
                                 model.importance)
    listed = ranking_losses(s, items, weights, n, robust_losses(s, items, model.item_weights, 1.0), 0.5)
    assert loss.item() == pytest.approx((base + 0.7 * listed.sum() / len(train)).item(), rel=1e-5)
    assert not ((negatives[:, None] == batch["item_id_list"]).any(1) | (negatives == batch["item_id"])).any()
    bare = batch[~has_list]
    torch.manual_seed(2)
    only_base = model.calculate_loss(bare)
    torch.manual_seed(2)
    assert only_base.item() == model.robust_base_loss(model.item_scores(bare), bare["item_id"],
                                                      model.negatives(bare)).item()


def test_own_first_items_are_found_without_dropout_and_training_goes_on(teacher, toy_settings):
    model, batch, _ = build("DLLM2Rec", toy_settings, teacher=str(teacher))
    model.train()
    assert torch.equal(model._own_first(batch, 5), model._own_first(batch, 5)) and model.training
    assert not torch.equal(model.item_scores(batch), model.item_scores(batch))


def test_gradients_reach_projection_and_items(teacher, toy_settings):
    model, _, train = build("DLLM2Rec", toy_settings, teacher=str(teacher), train_sample="full")
    model.calculate_loss(train.inter_feat[torch.arange(64)]).backward()
    for parameter in (model.item_embedding.weight, model.item_embedding.projection.weight):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
    assert "item_embedding.vectors" not in model.state_dict() and "list_items" not in model.state_dict()


# ---- runs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_a_student_runs_like_any_model(name, teacher, toy_settings):
    result = run_recbole_soft(name, "toy", config_dict=toy_settings(teacher=str(teacher), train_sample="full"))
    record = result["record"]
    assert record["results"][0]["windows"] == 24 and name in result["table"]
    assert record["notes"]["teacher"]["training_windows_with_a_list"] == 40
    assert len(record["notes"]["teacher"]["tensors"]) == 64 and record["notes"]["teacher"]["model"] == "BIGRec_SFT"
    assert record["config"]["teacher"] == str(teacher) and len(record["curves"]) == 2
    assert all(math.isfinite(row["loss_total"]) for row in record["curves"])
    assert (Path(result["record_path"]).parent / "model.safetensors").is_file()


def test_what_the_teacher_lists_rises_in_the_student(teacher, toy_settings, tmp_path):
    """Lists that always name the item after the target: only a student that learns lists ranks it high."""
    frame = build("DLLM2Rec", toy_settings, teacher=str(teacher), train_sample=64)[2].inter_feat
    listed = (1 + frame["item_id"] % 24)[:, None]
    about = json.loads((teacher / "teacher.json").read_text())
    write_teacher(tmp_path / "taught", Teacher(torch.randn(25, 4), frame["window_id"], listed,
                                               torch.zeros(len(frame), 1), about))
    ranks = []
    for weight in (0.0, 5.0):
        model, _, _ = build("DLLM2Rec", toy_settings, train_sample=64, teacher=str(tmp_path / "taught"),
                            dros_alpha=0.0, dllm_list_weight=weight, hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        model.train()
        for _ in range(40):
            optimiser.zero_grad()
            model.calculate_loss(frame).backward()
            optimiser.step()
        model.eval()
        scores = model.item_scores(frame)[:, 1:]
        ranks.append((scores > scores.gather(1, listed - 1)).sum(1).float().mean().item())
    assert ranks[1] < min(6, ranks[0] / 1.5), ranks  # of 24; the target itself comes before
