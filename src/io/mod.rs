//! Files in and out: safetensors, pickled weights, JSON configurations, checkpoint folders, images.
