"""OpenAI's Files and Uploads API: data for fine-tuning, checked when it comes, in a folder or on S3."""
