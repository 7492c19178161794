"""The translation library that stages share. The only part of the package that imports torch and transformers."""
