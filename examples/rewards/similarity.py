"""A reward Lambda with numpy: how close an answer is to the reference, by the letter triples that they share."""

import numpy as np


def lambda_handler(event, context):
    return [grade(sample) for sample in event]


def grade(sample):
    answer, reference = sample["messages"][-1]["content"], sample["reference_answer"]
    vocabulary = sorted(set(triples(answer)) | set(triples(reference)))
    score = cosine(count(answer, vocabulary), count(reference, vocabulary))
    return {
        "id": sample["id"],
        "aggregate_reward_score": score,
        "metrics_list": [{"name": "similarity", "value": score, "type": "Reward"}],
    }


def triples(text):
    letters = "".join(character for character in text.lower() if character.isalnum())
    return [letters[place : place + 3] for place in range(len(letters) - 2)]


def count(text, vocabulary):
    own = triples(text)
    return np.array([own.count(triple) for triple in vocabulary], dtype=float)


def cosine(first, second):
    length = np.linalg.norm(first) * np.linalg.norm(second)
    return 0.0 if length == 0 else round(float(first @ second / length), 6)
