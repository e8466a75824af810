"""Templates of reward manifests: one for each builtin, each judge and each other way to compute a reward."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

from rft_api.builtin_table import BUILTINS


@dataclass(frozen=True)
class Template:
    """A template of the manifest of a reward."""

    kind: str
    """The kind of reward: builtin, judge, own code, combination, OpenAI's JSON or service."""
    line: str
    """One line that says what the reward scores."""
    spec: str
    """The spec of the manifest, as YAML with comments."""

    def manifest(self, name: str) -> str:
        """Return the whole manifest of a RewardFunction with this name."""
        indented = "\n".join(f"  {line}" if line else "" for line in dedent(self.spec).strip().splitlines())
        return f"apiVersion: rft.dev/v1alpha1\nkind: RewardFunction\nmetadata: {{name: {name}}}\nspec:\n{indented}\n"


def _judge(template: str, line: str) -> Template:
    return Template(
        "judge",
        line,
        f"""
        judge:
          template: {template}
          # rubric: what earns which rating from 1 to 5; the template's own when absent
          model:
            url: http://127.0.0.1:8000/v1   # an OpenAI-compatible API; or `bedrock`, or `endpoint`
            name: judge
            # tokenKey: OPENAI_API_KEY      # key of the Secret in spec.credentials
        timeout: 5m
        """,
    )


TEMPLATES: dict[str, Template] = {
    **{name: Template("builtin", options.summary, options.example) for name, options in BUILTINS.items()},
    "InstructionFollowing": _judge("InstructionFollowing", "a model judges whether instructions were followed"),
    "Summarization": _judge("Summarization", "a model judges a summary"),
    "Reasoning": _judge("Reasoning", "a model judges the steps that lead to an answer"),
    "Faithfulness": _judge("Faithfulness", "a model judges whether an answer keeps to the given context"),
    "Python": Template(
        "own code",
        "a Python function of yours, in the contract of Amazon Bedrock's reward Lambdas",
        """
        python:
          source: |
            def lambda_handler(event, context):
                return [grade(sample) for sample in event]

            def grade(sample):
                completion = sample["messages"][-1]["content"]
                right = float(completion.strip() == sample["reference_answer"])
                short = float(len(completion) <= 200)
                return {
                    "id": sample["id"],
                    "aggregate_reward_score": 0.9 * right + 0.1 * short,
                    "metrics_list": [
                        {"name": "right", "value": right, "type": "Reward"},
                        {"name": "short", "value": short, "type": "Reward"},
                    ],
                }
        tests:
        - prompt: What is 6 times 7?
          completion: "42"
          referenceAnswer: "42"
          expect: {minimum: "1"}
        - prompt: What is 6 times 7?
          completion: "41"
          referenceAnswer: "42"
          expect: {maximum: "0.1"}
        """,
    ),
    "Combine": Template(
        "combination",
        "a weighted sum of rewards: here Math and Format",
        """
        combine:
          terms:
          - {name: correct, weight: "0.8", builtin: {name: Math}}
          - {name: thinks, weight: "0.2", builtin: {name: Format, format: {pattern: "<think>.+</think>.+"}}}
          # - {name: short, weight: "0", ...}    # weight 0 records a reward without training on it
        tests:
        - prompt: "6 * 7?"
          completion: "<think>6 * 7</think>#### 42"
          referenceAnswer: "42"
          expect: {minimum: "1"}
        - prompt: "6 * 7?"
          completion: "#### 42"
          referenceAnswer: "42"
          expect: {maximum: "0.8"}
        """,
    ),
    "OpenAI": Template(
        "OpenAI's JSON",
        "a grader as OpenAI documents it: string_check, text_similarity, python, multi, score_model, label_model",
        """
        openai:
          grader:
            type: multi
            graders:
              email:
                type: string_check
                input: "{{ sample.output_json.email }}"
                reference: "{{ item.email }}"
                operation: eq
              name:
                type: text_similarity
                input: "{{ sample.output_json.name }}"
                reference: "{{ item.name }}"
                evaluation_metric: fuzzy_match
            calculate_output: (name + email) / 2
        tests:
        - prompt: Who is it?
          completion: '{"name": "John Doe", "email": "john@example.com"}'
          metadata: {name: John Doe, email: john@example.com}
          expect: {minimum: "1"}
        - prompt: Who is it?
          completion: John
          metadata: {name: John Doe, email: x}
          expect: {maximum: "0"}
        """,
    ),
    "Lambda": Template(
        "service",
        "an AWS Lambda in the contract of Amazon Bedrock's reward Lambdas",
        """
        lambda:
          functionArn: arn:aws:lambda:eu-west-1:123456789012:function:grade
        timeout: 5m
        """,
    ),
    "Http": Template(
        "service",
        "a server of yours with the same contract",
        """
        http:
          url: https://rewards.example.com/v1/score
          # tokenKey: REWARD_TOKEN               # key of the Secret in spec.credentials
        timeout: 1m
        """,
    ),
}
