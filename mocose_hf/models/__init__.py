"""The method: encoders, views, queue, losses and the models that train them."""

# First of all modules here: importing AutoConfig imports this one, see `mocose_hf/__init__.py`, and it must be whole.
from mocose_hf.models import configuration_mocose  # noqa: F401
