"""`python -m core.convert official=mae path=mae_pretrain_vit_base.pth out=encoders/mae_base`

Turns an official checkpoint into a saved encoder, for `core.load_encoder` or `core.train init.from=`.

  official=  the method whose official checkpoint it is; a wrong name lists all
  path=      the file, .safetensors or .pth, or a folder of transformers (its config.json tells sizes); whatever
             stands beside the tensors is passed over, and nothing is run
  out=       folder of the encoder; the decoder, where the file has one, is kept there for init.from=
  meta=      arguments of the official constructor that tensors do not show:
             "meta={num_heads: 6, img_size: [128, 224]}"

Tensors that are no part of the encoder (a classifier) are named and left out."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.cli import command
from core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 2 the input was wrong."""
    return command(argv, lambda: __doc__ or "", lambda arguments: print(convert(arguments)))


def convert(argv: Sequence[str]) -> str:
    """Writes the encoder. Returns a line that describes it, and one for each note on tensors and assumptions."""
    # Imported late: --help should not wait for torch.
    from core.checkpoint_files import read_checkpoint
    from core.config import options
    from core.export import export_official

    types = {"official": str, "path": str, "out": str, "meta": dict[str, Any]}
    settings, _ = options(argv, types, strict=True)
    missing = [f"{name}=" for name in ("official", "path", "out") if name not in settings]
    if missing:
        raise UserError(f"{' '.join(missing)} not set. python -m core.convert --help")

    out = Path(settings["out"])
    checkpoint = read_checkpoint(settings["path"])
    with warnings.catch_warnings(record=True, action="always") as notes:
        encoder = export_official(settings["official"], checkpoint, out, settings.get("meta"))

    count = sum(p.numel() for p in encoder.parameters())
    lines = [f"{out}: {encoder.view} encoder, width {encoder.embed_dim}, {count / 1e6:.1f} M parameters"]
    for note in notes:
        lines += [f"note: {line}" for line in str(note.message).splitlines()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
