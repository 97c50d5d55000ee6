"""What `explain` says of a whole model, a ViT-B/16's train step.

`python -m analysis.pages.explain` compiles it and renews the parts of `docs/explain.md` that come from it.
"""

import os
import re
from pathlib import Path

from normbench.fusion import compile_environment

PAGE = Path("docs/explain.md")
MODEL = Path(__file__).with_name("vit.py")
"""What the page shows is what was compiled: this file, as it is."""


def parts() -> dict[str, str]:
    """What the page shows, by the name of the part; compiles the model for the H200."""
    import jax

    from analysis.pages import vit
    from normbench import explain

    report = explain(vit.step, vit.parameters, vit.moments, vit.images, vit.labels, target="h200")
    by_scope = report.by_scope(depth=2).head(8)[["launches", "executed", "bytes", "share", "predicted_s"]]
    return {
        "model": MODEL.read_text(encoding="utf-8").strip(),
        "report": f"JAX {jax.__version__}\n\n{report}",
        "by_scope": "\n".join(line.rstrip() for line in by_scope.to_string(float_format="%.3g").splitlines()),
    }


def filled(page: str, found: dict[str, str]) -> str:
    """The page with the blocks after `<!-- name -->` replaced."""
    for name, text in found.items():
        block = re.compile(rf"(?<=<!-- {name} -->\n```).*?(?=^```$)", re.DOTALL | re.MULTILINE)
        head, *rest = block.split(page)
        if len(rest) != 1:
            raise ValueError(f"{PAGE} has {len(rest)} blocks <!-- {name} -->; it should have one")
        page = f"{head}{'python' if name == 'model' else ''}\n{text}\n{rest[0]}"
    return page


def main() -> None:
    os.environ.update(compile_environment())
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
