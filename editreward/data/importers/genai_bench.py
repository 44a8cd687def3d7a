"""GenAI-Bench, image edition: pairs (see `pairwise`)."""

from editreward.data.importers.formats import Format
from editreward.data.importers.pairwise import FIELDS, IMAGE_FIELDS, assemble_pairs, key

FORMAT = Format("genai-bench", FIELDS, IMAGE_FIELDS, key, assemble_pairs)
