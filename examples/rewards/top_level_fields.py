"""A reward Lambda as for Amazon Nova: it reads the row's own fields at the top level of the sample."""


def lambda_handler(event, context):
    return [grade(sample) for sample in event]


def grade(sample):
    text = sample["messages"][-1]["content"].lower()
    named = [word in text for word in sample["ingredients"]]
    avoided = not any(word in text for word in sample["allergens"])
    score = sum(named) / len(named) if avoided else 0.0
    return {
        "id": sample["id"],
        "aggregate_reward_score": score,
        "metrics_list": [
            {"name": f"avoided_{sample['diet']}", "value": float(avoided), "type": "Metric"},
            {"name": "named", "value": sum(named) / len(named), "type": "Reward"},
        ],
    }
