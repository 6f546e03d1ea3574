"""What Hydra and OmegaConf say of a configuration, in our words and in one line."""

import re

from hydra.errors import OverrideParseException

NO_KEY = "there is no such key"
# What Hydra says --> what it means here.
OWN_WORDS = {
    "Ambiguous value for argument": "several values are a search, which recipes.sweep runs; give one value",
    "requires --multirun": "several values are a search, which recipes.sweep runs; give one value",
    "Multiple values for": "a choice is made already; write it without the +",
    "is not in struct": "there is no such entry; correct its name, or add it by a + before the key",
    "Could not override": NO_KEY,
    "is not a ListConfig": "a list is needed: KEY=[a,b]",
    "Config group override must be": "a choice is the name of a file in conf/; leave it out to keep the default",
    "Interpolation key": "${...} is no key of the configuration; a shell replaces it in double quotes only",
    "Cannot find primary config": "there is no such file in conf/; correct its name",
}
NEEDED = {
    "could not be converted to Float": "a number",
    "could not be converted to Integer": "a whole number",
    "is not a valid bool": "true or false",
}
NOISE = re.compile(
    "Set the env|object_type|reference_type|Config search path|provider=|See https|To append to|[123]\\. To"
)


def one_line(error: Exception) -> str:
    """Hydra's message without its remedies, which are for other programs: ours has no --multirun and adds no keys."""
    lines = [line.strip() for cause in (error, error.__cause__) if cause for line in str(cause).splitlines()]
    kept = " ".join(dict.fromkeys(line for line in lines if line and not NOISE.match(line)))
    if isinstance(error, OverrideParseException):
        return "its value cannot be read; one with any of = , ( ) [ ] { } needs quotes"
    for found, words in OWN_WORDS.items():
        if found in kept:
            return words
    for found, needed in NEEDED.items():
        if found in kept:  # the key is named, for a file that is chosen may hold it
            return f"{needed} is needed at {kept.rpartition('full_key: ')[2].partition(' ')[0]}"
    return kept.replace("full_key: ", "at ")
