"""What each incompatibility looks like from outside, as a function that shows it.

A function returns what RecBole gives, as text; `before_and_after.py` calls it with and without the shim.
Imports RecBole only inside the functions.
"""

from __future__ import annotations

import collections
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

INTERACTIONS = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"u{user}\ti{item}\t{10 * user + item}\n" for user in range(3) for item in range(4)
)


def _dataset(folder: str, model: str = "BPR", item_file: str = "", **settings: Any) -> Any:
    """A RecBole dataset of 3 users and 4 items, with `item_file` as its `.item` file."""
    from recbole.config import Config
    from recbole.data import create_dataset

    path = Path(folder) / "tiny"
    path.mkdir(exist_ok=True)
    (path / "tiny.inter").write_text(INTERACTIONS)
    if item_file:
        (path / "tiny.item").write_text(item_file)
        columns = [column.split(":")[0] for column in item_file.split("\n")[0].split("\t")]
        settings["load_col"] = {"inter": ["user_id", "item_id"], "item": columns}
    config_dict = {"data_path": folder, "train_neg_sample_args": None, **settings}
    return create_dataset(Config(model=model, dataset="tiny", config_dict=config_dict))


def find_a_model() -> str:
    from recbole.utils import get_model

    return get_model("BPR").__name__


def make_a_config() -> str:
    from recbole.config import Config

    return Config(model="BPR", dataset="ml-100k")["model"]


def read_yaml_after_two_configs() -> str:
    import yaml
    from recbole.config import Config

    Config(model="BPR", dataset="ml-100k")
    rules = len(yaml.FullLoader.yaml_implicit_resolvers["1"])
    config = [Config(model="BPR", dataset="ml-100k") for _ in range(2)][1]
    new = len(yaml.FullLoader.yaml_implicit_resolvers["1"]) - rules
    number = yaml.load("1e5", Loader=config.yaml_loader)  # noqa: S506  (what RecBole reads its own files with)
    return f"{new} new rules, RecBole reads {number!r}"


def build_graph() -> str:
    import numpy as np
    from recbole.model.general_recommender.lightgcn import LightGCN
    from scipy.sparse import coo_matrix

    model = SimpleNamespace(n_users=1, n_items=1, interaction_matrix=coo_matrix(np.ones((1, 1))))
    return str(LightGCN.get_norm_adj_mat(model).to_dense().round().int().tolist())


def read_sequence_column() -> str:
    item_file = "item_id:token\ttags:token_seq\ni0\tred big\ni1\tred\ni2\tblue\ni3\tblue\n"
    with tempfile.TemporaryDirectory() as folder:
        return str(_dataset(folder, item_file=item_file).item_feat["tags"].tolist())


def normalize_float_sequences() -> str:
    item_file = "item_id:token\tsizes:float_seq\ni0\t0 1\ni1\t4\ni2\t2\ni3\t2\n"
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(folder, item_file=item_file, normalize_field=["sizes"])
        return str(dataset.item_feat["sizes"].tolist())


def measure_given_histories() -> str:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tiny").mkdir()
        for split in ("train", "valid", "test"):
            rows = "u0\ti0\ti1\nu1\ti0 i1\ti2\nu2\ti0 i1 i2\ti3\n"
            (Path(folder) / "tiny" / f"tiny.{split}.inter").write_text(header + rows)
        dataset = _dataset(
            folder,
            model="SASRec",
            benchmark_filename=["train", "valid", "test"],
            alias_of_item_id=["item_id_list"],
            load_col={"inter": ["user_id", "item_id_list", "item_id"]},
        )
        return str(dataset.build()[0].inter_feat["item_length"].tolist())


def fill_missing_values() -> str:
    item_file = "item_id:token\tcolour:token\tprice:float\ni0\tred\t1\ni1\tblue\t\ni2\t\t3\ni3\tred\t5\n"
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(folder, item_file=item_file)
        dataset._change_feat_format()
        items = dataset.item_feat
        return f"colour {items['colour'].tolist()}, price {items['price'].tolist()}"


def read_empty_sequence() -> str:
    item_file = (
        "item_id:token\ttags:token_seq\tsizes:float_seq\ni0\tred\t1 2\ni1\t\t\ni2\tblue\t2\ni3\tblue\t1\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        items = _dataset(folder, item_file=item_file).item_feat
        return f"tags {items['tags'].tolist()}, sizes {items['sizes'].tolist()}"


def collect_counts() -> str:
    import torch
    from recbole.evaluator.collector import Collector, DataStruct

    collector = Collector.__new__(Collector)
    collector.data_struct = DataStruct()
    collector.data_struct.set("data.num_items", 7)
    collector.data_struct.set("data.count_items", collections.Counter({3: 2}))
    collector.data_struct.set("rec.items", torch.ones(1))
    first, second = (collector.get_data_struct()._data_dict for _ in range(2))
    counted = first["data.count_items"] is not second["data.count_items"]
    return f"first {sorted(first)}, second {sorted(second)}, copied {counted}"


def search_exhaustively() -> str:
    from recbole.trainer import HyperTuning

    def objective(config_dict: dict[str, float], config_file_list: object) -> dict[str, Any]:
        score = config_dict["learning_rate"]
        result = {"best_valid_score": score, "valid_score_bigger": True, "model": "BPR"}
        return {**result, "best_valid_result": {"score": score}, "test_result": {"score": score}}

    with tempfile.NamedTemporaryFile("w", suffix=".hyper") as space:
        space.write("learning_rate choice [0.1,0.2,0.3]\n")
        space.flush()
        tuning = HyperTuning(objective, params_file=space.name, algo="exhaustive", early_stop=10, max_evals=3)
        tuning.run()
    return f"best {tuning.best_score} of {len(tuning.score_list)}"


def import_quick_start_without_ray() -> str:
    imported = "recbole.quick_start.quick_start" in sys.modules
    if not imported:
        # None is how Python says "known to be absent"; the installed ray may work or not.
        sys.modules["ray"] = None
    try:
        from recbole.quick_start import run_recbole
    finally:
        if not imported:
            del sys.modules["ray"]
    return run_recbole.__name__


def resume_from_checkpoint() -> str:
    import torch
    from recbole.config import Config
    from recbole.trainer import Trainer

    config = Config(model="BPR", dataset="ml-100k")
    state = {
        "config": config,
        "epoch": 4,
        "cur_step": 0,
        "best_valid_score": 0.5,
        "state_dict": {},
        "optimizer": {},
    }
    part = SimpleNamespace(load_state_dict=lambda state: None, load_other_parameter=lambda other: None)
    trainer = SimpleNamespace(config=config, device="cpu", model=part, optimizer=part)
    trainer.logger = SimpleNamespace(info=lambda text: None, warning=lambda text: None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        torch.save(state, path, pickle_protocol=4)
        Trainer.resume_checkpoint(trainer, path)
    return f"epoch {trainer.start_epoch}"


def count_operations_of_a_large_model() -> str:
    from recbole.quick_start import quick_start
    from recbole.utils import ModelType

    class Large:
        type = ModelType.SEQUENTIAL
        skip_flops = True

        def __deepcopy__(self, memo: dict[int, object]) -> NoReturn:
            raise MemoryError("a second copy of the language model")

    return str(quick_start.get_flops(Large(), None, "cpu", None, None))


def import_sequential_models() -> str:
    import recbole.model.sequential_recommender
    import torch

    name = recbole.model.sequential_recommender.SASRec.__name__
    return f"anomaly detection {torch.is_anomaly_enabled()} after {name}"


def set_a_calculation() -> str:
    from recbole.config import Config

    settings = {"note": "'exe' + 'cuted'", "topk": "[5, 10]", "embedding_size": "1-2", "title": "True"}
    config = Config(model="BPR", dataset="ml-100k", config_dict=settings)
    return ", ".join(f"{name} {config[name]!r}" for name in settings)


def search_among_calculations() -> str:
    from recbole.trainer import hyper_tuning

    read = vars(hyper_tuning).get("eval", eval)
    return f"{read('[1e-3, 1e-4]')}, {read('sorted([2, 1])')}"


def name_a_teacher() -> str:
    from recbole.model.context_aware_recommender import kd_dagfm

    read = vars(kd_dagfm).get("eval", eval)
    return str(read("[1, 2].__len__()"))


class _Executed:
    """A pickle that runs code where it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemError('executed')",)


def find_pickled_caches() -> str:
    import pickle

    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    with tempfile.TemporaryDirectory() as folder:
        config = Config(model="SASRec", dataset="ml-100k",
                        config_dict={"checkpoint_dir": folder, "train_neg_sample_args": None})
        for name in ("ml-100k-SequentialDataset.pth", "ml-100k-for-SASRec-dataloader.pth"):
            (Path(folder) / name).write_bytes(pickle.dumps(_Executed()))
        return f"{len(data_preparation(config, create_dataset(config)))} loaders"


def load_pickled_array() -> str:
    import numpy as np
    from recbole.model.general_recommender import ldiffrec

    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "plain.npy", np.ones(2))
        np.save(Path(folder) / "pickle.npy", np.array([_Executed()], dtype=object), allow_pickle=True)
        plain = ldiffrec.np.load(Path(folder) / "plain.npy", allow_pickle=True).tolist()
        try:
            ldiffrec.np.load(Path(folder) / "pickle.npy", allow_pickle=True)
        except ValueError as error:
            return f"{plain}, {error}"
    return "read"


def load_a_checkpoint_with_code() -> str:
    import torch
    from recbole.trainer import trainer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        torch.save({"state_dict": {"weight": torch.ones(2)}, "config": _Executed()}, path, pickle_protocol=4)
        checkpoint = trainer.torch.load(path, map_location="cpu")
    return f"{checkpoint['state_dict']['weight'].tolist()}, {type(checkpoint['config']).__name__}"


SYMPTOMS: dict[str, tuple[Callable[[], str], ...]] = {
    "kmeans_stub": (find_a_model,),
    "anomaly_mode": (import_sequential_models,),
    "numpy_names": (make_a_config,),
    "scipy_dok": (build_graph,),
    "pandas_agg_len": (read_sequence_column, normalize_float_sequences, measure_given_histories),
    "pandas_frames": (fill_missing_values, read_empty_sequence),
    "collector": (collect_counts,),
    "hyperopt_rng": (search_exhaustively,),
    "ray_stub": (import_quick_start_without_ray,),
    "torch_load": (resume_from_checkpoint, load_a_checkpoint_with_code),
    "flops_guard": (count_operations_of_a_large_model,),
    "plain_strings": (set_a_calculation, search_among_calculations, name_a_teacher),
    "pickled_caches": (find_pickled_caches, load_pickled_array),
    "yaml_loader": (read_yaml_after_two_configs,),
}
