"""LLM-CF: SASRec helped by examples of earlier decisions, read in context by a small transformer.

Sun et al., "Large Language Models Enhanced Collaborative Filtering" (CIKM 2024). A language model gives vectors of
titles and, if asked, chains of thought about the examples, once and before training; it takes no part in training.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from recbole_soft.config.schema import Setting
from recbole_soft.errors import SettingError
from recbole_soft.llm.frozen import FrozenModel
from recbole_soft.models.example_pool import ExamplePool, make_pool
from recbole_soft.models.item_scorers import SASRecScorer
from recbole_soft.models.setup import artifact_store, open_backbone
from recbole_soft.models.thoughts import read_thoughts, requests_of, write_thoughts
from recbole_soft.rank_losses.base import base_loss
from recbole_soft.rank_losses.incontext import earlier_neighbours, reconstruction_loss, sampled_softmax

logger = logging.getLogger("recbole_soft")
_REFUSED, _CHOSEN = 0, 1


class InContextReader(nn.Module):
    """Reads [x_1, c_1, l_1, ..., x_m, c_m, l_m, x_query] and gives the query's output.

    Deviation: pre-norm transformer layers with learned positions; the published ones are those of Llama.

    Args:
        width: of all tokens.
        text_width: of text vectors.
        examples: m.
        layers, heads, dropout: of the transformer.
    """

    def __init__(self, width: int, text_width: int, examples: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.from_text = nn.Linear(text_width, width, bias=False)
        self.to_text = nn.Linear(width, text_width)
        self.joined = nn.Sequential(nn.Linear(5 * width, width), nn.GELU(), nn.Linear(width, width))
        self.labels = nn.Embedding(2, width)
        self.places = nn.Parameter(0.02 * torch.randn(3 * examples + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def token(self, user: Tensor, sequence: Tensor, history_text: Tensor, item: Tensor, item_text: Tensor) -> Tensor:
        """[..., d] token of a decision; the texts are [..., d_text], the others [..., d]."""
        parts = [user, sequence, self.from_text(history_text), item, self.from_text(item_text)]
        return self.joined(torch.cat(parts, dim=-1))

    def forward(self, decisions: Tensor, thoughts: Tensor, labels: Tensor, exists: Tensor,
                query: Tensor) -> tuple[Tensor, Tensor]:
        """The feature of the query, and what is predicted behind every example.

        Args:
            decisions: [b, m, d] tokens of the examples.
            thoughts: [b, m, d_text] vectors of their chains of thought, 0 where there is none.
            labels: [m] whether the item was chosen.
            exists: [b, m] whether there is an example.
            query: [b, d] token of the query.

        Returns:
            [b, d] and [b, m, d_text].
        """
        labelled = self.labels(labels).expand(len(query), -1, -1)
        triples = torch.stack([decisions, self.from_text(thoughts), labelled], dim=2).flatten(1, 2)
        tokens = torch.cat([triples, query[:, None]], dim=1) + self.places
        count = tokens.shape[1]
        is_hidden = torch.cat([~exists.repeat_interleave(3, dim=1), torch.zeros_like(exists[:, :1])], dim=1)
        # Causal, and no token reads a missing example; each reads itself, so that no row of the mask is empty.
        mask = torch.ones(count, count, dtype=torch.bool, device=tokens.device).triu(1) | is_hidden[:, None, :]
        mask = mask & ~torch.eye(count, dtype=torch.bool, device=tokens.device)
        heads = self.layers.layers[0].self_attn.num_heads
        output = self.layers(tokens, mask=mask.repeat_interleave(heads, dim=0))
        return output[:, -1], self.to_text(output[:, 0:-1:3])


class LLMCF(SASRecScorer):
    """LLM-CF on SASRec: adds what a small transformer reads in retrieved, earlier examples.

    Deviation: examples are strictly earlier in time, for every user; the published code lets a window retrieve itself
    and other users' future. Deviation: the examples' order is fixed, most similar last; the published code shuffles.
    """

    name = "LLMCF"
    loss_setting = "llmcf_loss"
    settings = (
        Setting("icl_num", "int", 4, "examples per window, half of them refusals; even", low=2),
        Setting("icl_pool_share", "float", 0.1, "share of the training windows that are examples", above=0, high=1),
        Setting("ict_layers", "int", 2, "layers that read the examples", low=1),
        Setting("ict_heads", "int", 2, "their attention heads", low=1),
        Setting("ict_dropout", "float", 0.1, "their dropout", low=0, high=1),
        Setting("ict_weight", "float", 0.1, "weight of what is read in the window's vector; 0 gives SASRec", low=0),
        Setting("llmcf_loss", "str", "CE", "over all items, or sampled softmax", choices=("CE", "SSM")),
        Setting("llmcf_negatives", "int", 128, "items per batch that SSM samples", low=1),
        Setting("cot", "str", "none", "chains of thought about the examples", choices=("none", "path", "generate")),
        Setting("cot_path", "path", None, "their file, with cot=path"),
        Setting("cot_max_tokens", "int", 256, "longest chain of thought", low=1),
        Setting("cot_beams", "int", 3, "answers of which the best is kept", low=1),
        Setting("reconstruction_weight", "float", 0.0, "weight of predicting the chains of thought", low=0),
    )

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        if config["icl_num"] % 2:
            raise SettingError(f"icl_num = {config['icl_num']} must be even: half of the examples are refusals",
                               where="icl_num", remedy=f"--icl_num={config['icl_num'] + 1}")
        if self.hidden_size % config["ict_heads"]:
            raise SettingError(f"ict_heads = {config['ict_heads']} must divide hidden_size = {self.hidden_size}",
                               where="ict_heads", remedy="--ict_heads=2")
        self.kind, self.n_negatives = config["llmcf_loss"], config["llmcf_negatives"]
        self.time_field, self.windows_read = config["TIME_FIELD"], config["icl_num"] // 2
        self.read_weight, self.reconstruction_weight = config["ict_weight"], config["reconstruction_weight"]
        pool = make_pool(dataset, config["icl_pool_share"], config["sample_seed"])
        # Else training would depend on which texts were found and which had to be made.
        with torch.random.fork_rng([config["device"]] if config["device"].type == "cuda" else []):
            item_texts, thoughts, has_thought, model = _texts(config, dataset, pool)
        self.notes = {"examples": {"windows": len(pool), "thoughts": int(has_thought.sum()), "language_model": model}}
        for name, table in {"item_texts": item_texts, "thoughts": thoughts, "has_thought": has_thought,
                            **{f"pool_{name}": getattr(pool, name) for name in ("users", "histories", "lengths",
                                                                               "items", "times")}}.items():
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("pool_windows", pool.windows)
        self.register_buffer("pool_texts", self._history_texts(pool.histories, pool.lengths), persistent=False)
        self.user_embedding = nn.Embedding(dataset.user_num, self.hidden_size)
        self.user_embedding.apply(self._init_weights)
        self.reader = InContextReader(self.hidden_size, item_texts.shape[1], config["icl_num"], config["ict_layers"],
                                      config["ict_heads"], config["ict_dropout"])

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Raises RuntimeError if the weights were trained with other examples, as happens with another train_sample."""
        if not torch.equal(state_dict["pool_windows"].cpu(), self.pool_windows.cpu()):
            raise RuntimeError("the weights were trained with other examples than this data gives")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _history_texts(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """[b, d_text] mean vectors of histories."""
        return self.item_texts[histories].sum(1) / lengths[:, None]

    def _read(self, interaction) -> tuple[Tensor, Tensor]:
        """[b, d] vectors of the windows, and [] the loss of reconstructing chains of thought."""
        histories, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        sequence, texts = self.forward(histories, lengths), self._history_texts(histories, lengths)
        rows, exists = earlier_neighbours(texts, interaction[self.time_field], self.pool_texts, self.pool_times,
                                          self.windows_read)
        rows, exists = rows.flip(1), exists.flip(1)  # the most similar stand next to the query
        decisions = self._example_tokens(rows)
        nothing = torch.zeros_like(interaction[self.USER_ID])
        query = self.reader.token(self.user_embedding(interaction[self.USER_ID]), sequence, texts,
                                  self.item_embedding(nothing), self.item_texts[nothing])
        labels = torch.tensor([_CHOSEN, _REFUSED], device=rows.device).repeat(self.windows_read)
        exists = exists.repeat_interleave(2, dim=1)
        thoughts, has_thought = self.thoughts[rows].flatten(1, 2), self.has_thought[rows].flatten(1, 2) & exists
        feature, predicted = self.reader(decisions, thoughts, labels, exists, query)
        return sequence + self.read_weight * feature, reconstruction_loss(predicted, thoughts, has_thought)

    def _example_tokens(self, rows: Tensor) -> Tensor:
        """[b, 2 w, d] tokens of pool windows [b, w]: of each, the chosen item and the refused one."""
        flat, inverse = rows.unique(return_inverse=True)
        sequence = self.forward(self.pool_histories[flat], self.pool_lengths[flat])
        items = self.pool_items[flat]
        shared = [self.user_embedding(self.pool_users[flat]), sequence, self.pool_texts[flat]]
        user, sequence, texts = (vectors[:, None].expand(-1, 2, -1) for vectors in shared)
        tokens = self.reader.token(user, sequence, texts, self.item_embedding(items), self.item_texts[items])
        return tokens[inverse].flatten(1, 2)

    def user_vectors(self, interaction) -> Tensor:
        """[b, d] vectors of the windows, examples read."""
        if not self.read_weight:
            return super().user_vectors(interaction)
        return self._read(interaction)[0]

    def calculate_loss(self, interaction) -> Tensor:
        """[] ranking loss + reconstruction."""
        vectors, reconstruction = (self._read(interaction) if self.read_weight or self.reconstruction_weight else
                                   (super().user_vectors(interaction), 0.0))
        scores, targets = (vectors @ self.item_embedding.weight.T).float(), interaction[self.ITEM_ID]
        if self.kind == "CE":
            losses = base_loss("CE", scores, targets, targets)
        else:
            losses = sampled_softmax(scores, targets, torch.randint(1, self.n_items, (self.n_negatives,),
                                                                    device=targets.device))
        return losses.mean() + self.reconstruction_weight * reconstruction


def _texts(config, dataset, pool: ExamplePool) -> tuple[Tensor, Tensor, Tensor, str]:
    """[n_items, d] vectors of titles; [p, 2, d] of chains of thought; [p, 2] whether there is one; the model's hash.

    The language model is opened here and forgotten at the end.
    """
    if config["llm"] not in (None, "tiny"):
        raise SettingError(f"llm = {config['llm']}: presets are for LLM methods", where="llm",
                           remedy="give the model itself: --llm_path=FOLDER")
    store = artifact_store(config)
    backbone, _ = open_backbone(config, dataset, store)
    model = FrozenModel(backbone, config["embed_pooling"], config["embed_batch_tokens"], store)
    titles = dataset.catalog.titles
    vectors = model.vectors(titles[1:])
    # Text vectors of a language model share a large common part; without it angles tell items apart.
    item_texts = functional.normalize(vectors - vectors.mean(0))
    item_texts = torch.cat([torch.zeros_like(item_texts[:1]), item_texts])
    thoughts, exists = torch.zeros(len(pool), 2, vectors.shape[1]), torch.zeros(len(pool), 2, dtype=torch.bool)
    written = _thoughts(config, dataset, pool, model, store.root)
    if written:
        order = list(written)
        row_of = {window: row for row, window in enumerate(pool.windows.tolist())}
        unit = functional.normalize(model.vectors([written[where] for where in order]))
        for (window, was_chosen), vector in zip(order, unit, strict=True):
            place = (row_of[window], 0 if was_chosen else 1)
            thoughts[place], exists[place] = vector, True
    return item_texts, thoughts, exists, model.fingerprint


def _thoughts(config, dataset, pool: ExamplePool, model: FrozenModel, folder) -> dict[tuple[int, bool], str]:
    """Texts by window and decision, of the pool's examples that have one."""
    if config["cot"] == "none":
        return {}
    data, requests = dataset.sequences_fingerprint(), requests_of(pool, dataset.catalog.titles)
    if config["cot"] == "path":
        path = Path(config["cot_path"])
    else:
        hidden = not config["show_progress"]
        with tqdm(total=len(requests), desc="Chains of thought", unit="text", disable=hidden) as bar:
            path = write_thoughts(model, requests, folder, data, beams=config["cot_beams"],
                                  max_new_tokens=config["cot_max_tokens"],
                                  batch_size=config["generation_batch_size"], progress=bar.update)
    found = {where: text for where, text in read_thoughts(path, data).items() if where in requests and text.strip()}
    log = logger.info if found else logger.warning
    log("chains of thought: %d of %d examples have one (%s)", len(found), len(requests), path)
    return found
