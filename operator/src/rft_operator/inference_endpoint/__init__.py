"""InferenceEndpoint: a vLLM server, or an adapter on one."""
