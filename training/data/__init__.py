"""The data of training: reading images, cutting crops, reading published codes, reading and writing token files."""
