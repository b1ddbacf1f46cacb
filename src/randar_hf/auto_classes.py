"""The models, registered with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_randar import RandARConfig
from .configuration_rar import RARConfig
from .modeling_randar import RandARForCausalLM, RandARModel
from .modeling_rar import RARForCausalLM, RARModel


AutoConfig.register("randar", RandARConfig, exist_ok=True)
AutoModel.register(RandARConfig, RandARModel, exist_ok=True)
AutoModelForCausalLM.register(RandARConfig, RandARForCausalLM, exist_ok=True)
AutoConfig.register("rar", RARConfig, exist_ok=True)
AutoModel.register(RARConfig, RARModel, exist_ok=True)
AutoModelForCausalLM.register(RARConfig, RARForCausalLM, exist_ok=True)
