"""The Space as Gradio blocks: four tabs, and the endpoints of the API."""

import re
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from editreward_space import pages
from editreward_space.api import add_api
from editreward_space.batch_tab import batch_tab
from editreward_space.compare_tab import compare_tab
from editreward_space.quota import UploadQuota
from editreward_space.rank_tab import rank_tab
from editreward_space.service import Service
from editreward_space.tidy import keep_tidy

STATIC = Path(__file__).parent / "static"
SCORING_THREADS = 8
"""Requests that are read at the same time; those that wait for the model share its next batch."""

ABOUT = """\
## What it is for

Several edits of an image, and an instruction that they should follow: which is the best? **Rank** puts them in order,
**Compare** sets two against each other, **Batch** scores whole tables and shows the best. The method:
[arXiv 2509.26346](https://arxiv.org/abs/2509.26346).

## How to read the scores

- A score in each dimension{scale}
- **P(best)** says how sure the model is: with 90 % it is wrong once in ten such cases, if it knows what it looks at.
  Where no edit has more than half, it does not know which is the best.
- **reward** is the raw value that the order comes from. Higher is better, a negative one is not bad, and only
  differences between edits of one image mean anything.

## What it cannot do

A model knows the kind of images and edits that it was trained on, and may be sure of itself on others, too. Reward
models see an image at about 450 x 450 pixels, so that fine detail is lost on them. Scores say nothing about whether an
image is true, legal or decent. Look at what you pick.

## What happens to your images

They are scored, kept for about {minutes} minutes so that you can look at the result, and then deleted. They
train nothing. Please do not upload what others must not see.
"""
CALIBRATED = """\
 is on the scale of people who rate images, from 1 (worst) to 4 (best). What follows a ± is how far it may be off."""
UNCALIBRATED = " of this model is uncalibrated: it has no scale, and only differences within a group have a meaning."


def build(service: Service) -> gr.Blocks:
    """All of the Space."""
    settings = service.settings
    with gr.Blocks(title="EditReward", analytics_enabled=False) as blocks:
        gr.Markdown("# EditReward\nHow well do edited images follow an instruction, and how good do they look?")
        gr.HTML(pages.model_note(service.describe()))
        with gr.Tabs():
            with gr.Tab("Rank", id="rank"):
                rank_tab(service, blocks)
            with gr.Tab("Compare", id="compare"):
                compare_tab(service)
            with gr.Tab("Batch", id="batch"):
                batch_tab(service)
            with gr.Tab("About", id="about"):
                about_tab(service)
        add_api(service)
    blocks.queue(max_size=settings.max_queue, default_concurrency_limit=SCORING_THREADS, api_open=False)
    keep_tidy(blocks, settings.keep_minutes, service.quota)
    return blocks


def about_tab(service: Service) -> None:
    """For users: what it is for, how to read it, what it cannot do, which model, which limits."""
    description, settings = service.describe(), service.settings
    scale = CALIBRATED if description["calibrated"] else UNCALIBRATED
    gr.Markdown(ABOUT.format(scale=scale, minutes=settings.keep_minutes))
    gr.HTML(f"<h2>The model</h2>{pages.model_note(description)}<p>{model_link(settings.model)}</p>")
    gr.HTML(f"<h2>Limits of this Space</h2>{pages.limits_table(settings)}")


def model_link(model: str) -> str:
    """Where to read more about a model on the Hub, as HTML; empty for others."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model, re.ASCII) or Path(model).is_dir():
        return ""
    address = f"https://huggingface.co/{model}"
    return f'How it was made, and measured: <a href="{escape(address)}">{escape(address)}</a>'


def launch_options(service: Service) -> dict[str, Any]:
    """Arguments of `launch`: looks, and what is switched off."""
    return {
        "theme": gr.themes.Default(font="system-ui", font_mono="monospace"),  # by name: fetched from nowhere
        "css_paths": [STATIC / "space.css"],
        "head": f"<script>{(STATIC / 'space.js').read_text(encoding='utf-8')}</script>",
        "max_file_size": f"{service.settings.max_upload_mb}mb",
        "app_kwargs": {"middleware": [Middleware(UploadQuota, quota=service.quota)]},
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
    }
