"""InferenceEndpoint: a Deployment of vLLM servers, or an adapter on such a server."""
