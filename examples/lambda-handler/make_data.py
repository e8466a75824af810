"""Makes data/{train,test}.jsonl: messages to a shop's support and what a person decided about each.

    python make_data.py

The messages were written for this example; there is no other source. Both files are committed, and this script makes
the same files again.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SYSTEM = (
    "Triage the message. Answer with JSON: category (billing, delivery, account or technical), priority (low or high)."
)
EXAMPLE = ("Where can I see my past orders?", "account", "low")
TEST_EVERY = 4
"""Every fourth message is a test message."""

# Message, category, priority, and the channel that it came by, which is a further field of the row.
TICKETS = (
    ("You charged my card twice for the same order and my account is now overdrawn.", "billing", "high", "email"),
    ("Could you send me the receipt for my order from March?", "billing", "low", "email"),
    ("My parcel was marked delivered, but nothing is here and I need it tomorrow.", "delivery", "high", "chat"),
    ("Do you ship to Norway?", "delivery", "low", "form"),
    ("Someone changed the email address of my account, and it was not me!", "account", "high", "chat"),
    ("How do I change my display name?", "account", "low", "form"),
    ("The app crashes whenever I open the checkout, I cannot buy anything.", "technical", "high", "form"),
    ("The dark theme shows grey text on black in the footer.", "technical", "low", "form"),
    ("The refund you promised three weeks ago has still not arrived.", "billing", "high", "email"),
    ("Which payment methods do you accept?", "billing", "low", "chat"),
    ("The medicine cooler arrived broken and the patient needs it today.", "delivery", "high", "phone"),
    ("Can I pick my order up at a store next time?", "delivery", "low", "chat"),
    ("I am locked out and the reset link never comes, my shop is offline.", "account", "high", "phone"),
    ("Please add my middle name to my profile.", "account", "low", "email"),
    ("Your API answers every request of ours with error 500 since this morning.", "technical", "high", "email"),
    ("Is there a way to export my order list as a spreadsheet?", "technical", "low", "form"),
    ("My invoice shows 900 euros instead of 90, and it was collected already.", "billing", "high", "phone"),
    ("Can I get my invoices in English?", "billing", "low", "email"),
    ("The courier left a 2000 dollar laptop in the rain in front of my door.", "delivery", "high", "chat"),
    ("Just wondering how long standard shipping takes.", "delivery", "low", "chat"),
    ("There is a login from a country I have never been to. Block it now please.", "account", "high", "chat"),
    ("I would like to stop the weekly newsletter.", "account", "low", "email"),
    ("The payment page shows another customer's address to me.", "technical", "high", "email"),
    ("The search box loses focus after I type a comma.", "technical", "low", "form"),
    ("I cancelled in January and you still take money from me every month.", "billing", "high", "email"),
    ("Do you offer a discount for schools?", "billing", "low", "form"),
    ("All forty boxes for our wedding on Saturday went to the wrong city.", "delivery", "high", "phone"),
    ("Please leave the next parcel with my neighbour, there is no rush.", "delivery", "low", "form"),
    ("My son deleted our account with all licences, we cannot work.", "account", "high", "phone"),
    ("Where do I change the language of my account?", "account", "low", "chat"),
    ("Since the update the scanner does not start and our warehouse stands still.", "technical", "high", "phone"),
    ("The icon of the wish list looks blurry on my tablet.", "technical", "low", "form"),
    ("A stranger paid with my card in your shop, please stop the payment at once.", "billing", "high", "phone"),
    ("What does the line service fee on my bill mean?", "billing", "low", "chat"),
    ("The glass of my order is shattered and my child was cut by it.", "delivery", "high", "phone"),
    ("Can you tell me which carrier you use?", "delivery", "low", "chat"),
    ("I get codes for a password reset that I did not ask for, again and again.", "account", "high", "email"),
    ("May I merge my two accounts some day?", "account", "low", "email"),
    ("No customer can log in to the booking system, we lose sales every minute.", "technical", "high", "phone"),
    ("Your page about cookies has a typo in the second line.", "technical", "low", "form"),
    ("You sent my bill to a debt collector although I paid on time.", "billing", "high", "email"),
    ("Could my next bill come on the first of the month?", "billing", "low", "email"),
    ("The frozen food has been standing at the depot for two days.", "delivery", "high", "chat"),
    ("I would like to add a second address for later orders.", "delivery", "low", "form"),
    ("Delete my account today, my ex knows the password.", "account", "high", "chat"),
    ("How many people can share one account?", "account", "low", "chat"),
    ("The door lock does not react to your app and I stand outside.", "technical", "high", "chat"),
    ("Which browsers do you support?", "technical", "low", "form"),
)


def answer(category: str, priority: str) -> dict[str, str]:
    """What a person decided about a message."""
    return {"category": category, "priority": priority}


def row(text: str, category: str, priority: str, channel: str) -> dict[str, Any]:
    """One line of the data files: a one-shot prompt, the reference answer, and a further field."""
    example, *decided = EXAMPLE
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"Triage: {example}"},
            {"role": "assistant", "content": json.dumps(answer(*decided))},
            {"role": "user", "content": f"Triage: {text}"},
        ],
        "reference_answer": answer(category, priority),
        "channel": channel,
    }


def main() -> None:
    """Writes the two files and prints how many rows each has."""
    # Tickets alternate between high and low; a shift of one per block of eight gives both to the test.
    chosen = [(index + index // 8) % TEST_EVERY == 0 for index in range(len(TICKETS))]
    (HERE / "data").mkdir(exist_ok=True)
    for name, wanted in (("train", False), ("test", True)):
        rows = [row(*ticket) for ticket, test in zip(TICKETS, chosen, strict=True) if test is wanted]
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in rows]
        (HERE / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(lines)} rows")


if __name__ == "__main__":
    main()
