"""The method: encoders, views, queue, losses and the models that train them."""
