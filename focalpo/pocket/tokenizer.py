"""The pocket tokenizer: one id per word of the pocket world, with a chat template.

A chat is `<bos><user> prompt <asst> answer <eos>`. The template writes the only <bos>; calling the tokenizer on text
adds no special tokens.
"""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from focalpo.pocket.world import vocabulary

SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<asst>")

# The space before an answer stays out of the generation prompt, so that the prompt is a prefix as text and as tokens.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<user> ' + message['content'] + ' ' }}"
    "{%- elif message['role'] == 'assistant' %}{{ '<asst> ' + message['content'] + ' ' + eos_token }}"
    "{%- else %}{{ raise_exception('the pocket chat template knows the roles user and assistant only') }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<asst>' }}{%- endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer; ids follow `SPECIAL_TOKENS`, then `world.vocabulary()`."""
    words = [*SPECIAL_TOKENS, *vocabulary()]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<asst>"],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
