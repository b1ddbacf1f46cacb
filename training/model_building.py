"""The model of a run, fresh or pretrained, with the classes of the data."""

from accelerate.utils import set_seed
from diffusers import VQModel
from peft import PeftModel

from randar_hf import RandARConfig, RandARForCausalLM, RARConfig, RARForCausalLM
from randar_hf.orders import FIXED_ORDER_NAMES

from .data.token_files import check_tokenizer, grid_of_rows, label_names, read_settings
from .fine_tuning import PretrainedModel, adapt_config, load_pretrained_weights
from .lora import add_adapter
from .training_config import TrainingConfig, model_class


DECODING_FRACTION = 88 / 256  # decoding steps per token of the paper's main results (Table 1)


def build_model_config(
    config: TrainingConfig, rows, vqvae: VQModel | None, pretrained: PretrainedModel | None = None
) -> RandARConfig | RARConfig:
    """The model's configuration: classes from the data; sizes from `config`, vocabulary and grid from the data.

    Args:
        config: the settings; those of `follow_pretrained` if there is a pretrained model.
        rows: token rows to train on, as `token_columns` gives them.
        vqvae: the tokenizer of the rows, if it is at hand.
        pretrained: the model to start from, which has all that the classes do not tell.

    Raises:
        ValueError: the tokenizer or the pretrained model does not belong to the tokens, or sizes do not fit.
    """
    names = label_names(rows)
    settings = read_settings(config.dataset)
    if vqvae is not None:
        check_tokenizer(settings, vqvae)
    elif settings is None:
        raise ValueError("`tokenizer` must be given, since no tokenizer settings are stored with the tokens")
    vocab_size = settings.vocab_size if settings else vqvae.config.num_vq_embeddings
    grid = grid_of_rows(rows, settings)
    fields = {
        "num_classes": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        **({"scan_order": config.annealing.order} if config.model_type == "rar" else {}),
        **config.model_fields,
    }
    if pretrained is not None:
        return adapt_config(pretrained, vocab_size, grid, **fields)
    return model_class(config.model_type).config_class(vocab_size=vocab_size, grid_size=grid, **fields)


def build_model(
    config: TrainingConfig, model_config: RandARConfig | RARConfig, pretrained: PretrainedModel | None = None
) -> RandARForCausalLM | RARForCausalLM | PeftModel:
    """The model to train, fresh or with the weights of a pretrained one, and with adapters if there is a rank.

    A run that is resumed gets its weights from its checkpoint, so those of the pretrained model are not read again.
    """
    set_seed(config.seed)
    model = model_class(config.model_type)(model_config)
    if pretrained is not None:
        model.generation_config = pretrained.generation_config
        if config.resume is None:
            load_pretrained_weights(model, pretrained)
    model.generation_config.order = config.annealing.order
    model.generation_config.num_inference_steps = decoding_steps(config, model_config.num_tokens)
    if model_config.num_classes == 1:
        model.generation_config.guidance_scale = 1.0  # there is nothing to guide towards
    if config.lora_rank is not None:
        model = add_adapter(model, config.lora_rank)
    if config.activation_checkpointing:
        model.activation_checkpointing_enable()
    return model


def decoding_steps(config: TrainingConfig, num_tokens: int) -> int:
    """Steps of generation by default: one a token in an order that has never been read but one after another."""
    if config.annealing.order in FIXED_ORDER_NAMES or config.model_type == "rar":
        return num_tokens
    return max(1, round(DECODING_FRACTION * num_tokens))
