"""BERT text tower with Chinese-CLIP's parameter names, on scaled_dot_product_attention.

Source of the architecture: Devlin et al. 2019; of the names and the pooling: Chinese-CLIP (Yang et al. 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnclip.model.config import TextConfig
from cnclip.text import PAD_ID

_LAYER_NORM_EPS = 1e-12


class BertEmbeddings(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.text_hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=PAD_ID)
        self.position_embeddings = nn.Embedding(config.text_max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.text_type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.text_hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        x = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        out: Tensor = self.dropout(self.LayerNorm(x))  # (B, L, W)
        return out


class BertSelfAttention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.text_hidden_size
        self.heads = config.text_num_attention_heads
        self.dropout_p = config.text_attention_probs_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            proj(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)  # (B, H, L, W/H)
            for proj in (self.query, self.key, self.value)
        )
        dropout_p = self.dropout_p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        return y.transpose(1, 2).reshape(batch, length, width)


class BertResidual(nn.Module):
    """Linear, dropout, add, LayerNorm: the second half of both sub-layers."""

    def __init__(self, width_in: int, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, config.text_hidden_size)
        self.LayerNorm = nn.LayerNorm(config.text_hidden_size, eps=_LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.text_hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class BertAttention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertResidual(config.text_hidden_size, config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = self.output(self.self(x, mask), x)
        return out


class BertIntermediate(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.text_hidden_size, config.text_intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertResidual(config.text_intermediate_size, config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention(x, mask)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


class BertEncoder(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.text_num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layer:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, mask)
        return x


class Bert(nn.Module):
    """Token ids to one vector per text.

    Args (forward):
        ids: int64 (B, L), zero = padding, L <= text_max_position_embeddings.
        mix: (partner int64 (B,), share): each text is embedded as share x itself + (1 - share) x its partner
            row, token by token (mixup on the word embeddings; training only).

    Returns: (B, text_hidden_size): the [CLS] state, or the mean over the text's tokens.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.text_initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, mix: tuple[Tensor, float] | None = None) -> Tensor:
        present = ids.ne(PAD_ID)  # (B, L)
        x = self.embeddings(ids)  # (B, L, W)
        if mix is not None:
            partner, share = mix
            x = share * x + (1 - share) * x[partner]
            present = present | present[partner]
        states: Tensor = self.encoder(x, present[:, None, None, :])  # (B, L, W)
        if self.config.text_pooling == "cls":
            return states[:, 0]
        weights = present[:, :, None].to(states.dtype)
        mean: Tensor = (states * weights).sum(1) / weights.sum(1)
        return mean
