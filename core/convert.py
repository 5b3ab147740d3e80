"""`python -m core.convert official=mae path=mae_pretrain_vit_base.pth out=encoders/mae_base`

Turns an official checkpoint into a saved encoder, for `core.load_encoder` or `core.train init=`.

  official=  whose checkpoint it is: the names that a wrong one lists
  path=      the file, .safetensors, or .pth of tensors (pickled code is refused)
  out=       folder of the encoder"""

import sys
from collections.abc import Sequence
from pathlib import Path

from core.cli import command
from core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 2 the input was wrong."""
    return command(argv, lambda: __doc__ or "", lambda given: print(convert(given)))


def convert(argv: Sequence[str]) -> str:
    """Writes the encoder and says what it is."""
    from core.config import options
    from core.export import export_official
    from core.interop import read_checkpoint

    asked, _ = options(argv, {"official": str, "path": str, "out": str}, strict=True)
    missing = [f"{name}=" for name in ("official", "path", "out") if name not in asked]
    if missing:
        raise UserError(f"{' '.join(missing)} not set. python -m core.convert --help")
    encoder = export_official(asked["official"], read_checkpoint(asked["path"]), Path(asked["out"]))
    count = sum(p.numel() for p in encoder.parameters())
    return f"{asked['out']}: {encoder.view} encoder, width {encoder.embed_dim}, {count / 1e6:.1f} M parameters"


if __name__ == "__main__":
    sys.exit(main())
