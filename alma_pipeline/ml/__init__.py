"""The translation library that stages share: data, models, training, decoding and scoring. It knows neither Hydra nor MLflow nor
the plan."""
