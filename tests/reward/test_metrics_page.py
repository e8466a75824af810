"""The page with the metrics: fresh for those who ask as often as Prometheus does, and cheap for all others."""

from rft_api.foreign import server_limits
from rft_reward.metrics_page import MetricsPage


class Processor:
    """A processor that needs a while for each page."""

    def __init__(self, seconds):
        self.seconds, self.now, self.used, self.pages = seconds, 0.0, 0.0, 0
        self.page = MetricsPage(self.make, lambda: self.now, lambda: self.used)

    def make(self):
        self.used += self.seconds
        self.pages += 1
        return b"%d" % self.pages


def test_every_page_is_fresh_for_those_who_ask_now_and_then():
    processor = Processor(0.005)
    for number in range(1, 1000):
        processor.now += 0.1
        assert processor.page.content() == b"%d" % number


def test_a_flood_takes_its_share_of_the_processor():
    processor = Processor(0.005)
    for _ in range(100_000):
        processor.now += 0.0001  # ten seconds in all
        processor.page.content()
    assert processor.used <= server_limits.PAGE_SECONDS + 10 * server_limits.PAGE_SHARE + 2 * 0.005
    last = processor.pages
    processor.now += 1
    assert processor.page.content() == b"%d" % (last + 1)


def test_a_page_that_takes_long_is_made_all_the_same():
    processor = Processor(3.0)
    assert processor.page.content() == processor.page.content() == b"1"
    processor.now += 26
    assert processor.page.content() == b"2"
