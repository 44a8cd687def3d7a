"""The EditReward Space: rank, compare and batch-score image edits. `python app.py` serves it here."""

import importlib.util
import os

if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  # ZeroGPU: before anything that touches CUDA

try:
    from editreward_space.scratch import Scratch

    # Uploads and downloads go with the process. Gradio asks for the folder when it is imported.
    scratch = Scratch()
    os.environ.setdefault("GRADIO_TEMP_DIR", str(scratch.folder))
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

    from editreward_space.service import Service
    from editreward_space.settings import Settings
    from editreward_space.ui import build, launch_options
except ModuleNotFoundError as error:
    raise SystemExit(f'app.py: error: {error}: pip install "editreward[space]" brings it') from error

service = Service.load(Settings.from_environment())
demo = build(service)

if __name__ == "__main__":
    with scratch.until_ended():
        demo.launch(**launch_options(service))
