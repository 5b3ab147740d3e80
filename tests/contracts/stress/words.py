"""Text as several stubs read it: token ids, an embedding table."""

from torch import Tensor, nn

from core.embeddings import SinCos
from core.tokenizers import Tokenizer
from core.tokens import EncoderInput, Layout, Tokens
from tests.contracts.toys import DIM

VOCABULARY = 11


class Text(Tokenizer):
    """Word ids (B, N); zero is padding."""

    def forward(self, data: Tensor) -> Tokens:
        return Tokens(data, Layout(data.shape[1], (data.shape[1],), valid=data > 0))


class Words(nn.Module):
    """Word ids with the mask's id where they are erased; every row stays."""

    def __init__(self, length: int = 6):
        super().__init__()
        self.table, self.positions = nn.Embedding(VOCABULARY + 1, DIM), SinCos((length,), DIM)

    def forward(self, seen: EncoderInput) -> Tensor:
        ids = seen.content.masked_fill(seen.erased, VOCABULARY)
        return self.table(ids) + self.positions(seen.cells, seen.layout.grid)
