"""One tool over many small models, in a process of its own: `python -m tests.bench.micro.peer TOOL FOLDER`.

Each `FOLDER/*.onnx` becomes `FOLDER/TOOL/*.onnx`; where the tool raises, a file with the error stands there instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.tools import TOOLS

PEERS = ("onnxsim", "onnxslim", "onnxscript", "ort-basic", "ort-extended")


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    run = TOOLS[name]()
    (folder / name).mkdir(exist_ok=True)
    for source in sorted(folder.glob("*.onnx")):
        try:
            run(str(source), str(folder / name / source.name))
        except Exception as error:
            (folder / name / source.name).with_suffix(".error").write_text(str(error))


if __name__ == "__main__":
    main()
