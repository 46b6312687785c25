import unittest
from decimal import Decimal

from main import ReadingError, TariffError, bill, parse_readings, parse_tariff, render

FULL = """\
rate      31.5
window    night  22:00  06:00  19.25   # through midnight
window    peak   17:00  20:00  48

standing  35.5
vat       19
"""


def bill_of(tariff: str, *readings: str) -> list[tuple]:
    return bill(parse_tariff(tariff), parse_readings("\n".join(readings)))


class TariffTest(unittest.TestCase):
    def refuse(self, text: str, message: str) -> None:
        with self.assertRaisesRegex(TariffError, message):
            parse_tariff(text)

    def test_good_tariffs(self):
        for text in (
            FULL,
            "rate 1",
            "window all 00:00 24:00 1\nrate 0",
            "rate 1\nwindow a 08:00 09:00 1\nwindow b 09:00 08:00 2",
        ):
            self.assertIsNotNone(parse_tariff(text))

    def test_missing_rate(self):
        self.refuse("# nothing\nvat 19", "no rate")

    def test_lines_that_cannot_be_read(self):
        self.refuse("rate 1\n\n# x\nrates 2", "^line 4: ")
        self.refuse("rate -1", "^line 1: ")
        self.refuse("rate 1e3", "^line 1: ")
        self.refuse("rate 1 2", "^line 1: ")
        self.refuse("rate 1\nrate 2", "^line 2: ")
        self.refuse("rate 1\nwindow a 08:00 09:00", "^line 2: ")

    def test_impossible_times(self):
        for start, end in (
            ("8:00", "09:00"),
            ("08:60", "09:00"),
            ("24:00", "01:00"),
            ("08:00", "24:01"),
            ("08:00", "08:00"),
        ):
            self.refuse(f"rate 1\nwindow a {start} {end} 1", "^line 2: ")

    def test_windows_that_share_a_minute(self):
        self.refuse("window a 22:00 06:00 1\nrate 1\nwindow b 05:59 07:00 1", "^line 3: ")
        self.refuse("window a 01:00 02:00 1\nwindow b 22:00 06:00 1\nrate 1", "^line 2: ")

    def test_names_that_are_taken(self):
        self.refuse("rate 1\nwindow total 01:00 02:00 1", "^line 2: ")
        self.refuse("rate 1\nwindow a 01:00 02:00 1\nwindow a 03:00 04:00 1", "^line 3: ")


class ReadingTest(unittest.TestCase):
    def refuse(self, message: str, *lines: str) -> None:
        with self.assertRaisesRegex(ReadingError, message):
            parse_readings("\n".join(lines))

    def test_good_readings(self):
        self.assertEqual(
            len(parse_readings("# meter 7\n2026-03-01 00:00 0012.5\n\n2026-03-01 00:01 0012.5 # night\n")), 2
        )

    def test_too_few_readings(self):
        self.refuse("two readings", "# none")
        self.refuse("two readings", "2026-03-01 00:00 0012")

    def test_order_and_shape(self):
        first = "2026-03-01 00:00 0012.5"
        self.refuse("^line 2: ", first, "2026-03-01 00:00 0013.5")
        self.refuse("^line 3: ", first, "", "2026-03-02 00:00 13.5")
        self.refuse("^line 2: ", first, "2026-03-02 00:00 0013")
        self.refuse("^line 2: ", first, "2026-02-30 00:00 0013.5")
        self.refuse("^line 2: ", first, "2026-03-02 24:00 0013.5")
        self.refuse("^line 2: ", first, "2026-03-02 0013.5")

    def test_half_a_meter_is_too_much(self):
        self.refuse("^line 2: ", "2026-03-01 00:00 00", "2026-03-02 00:00 50")
        self.refuse("^line 2: ", "2026-03-01 00:00 12", "2026-03-02 00:00 11")
        self.assertEqual(len(parse_readings("2026-03-01 00:00 00\n2026-03-02 00:00 49")), 2)


class BillTest(unittest.TestCase):
    def test_whole_day(self):
        lines = bill_of(FULL, "2026-03-01 00:00 0100.0", "2026-03-02 00:00 0124.0")
        expected = [
            ("night", Decimal("8.000"), 154),
            ("peak", Decimal("3.000"), 144),
            ("rest", Decimal("13.000"), 410),
            ("standing", Decimal(1), 36),
            ("vat", Decimal(19), 141),
            ("total", Decimal("24.000"), 885),
        ]
        self.assertEqual(lines, expected)

    def test_use_is_spread_between_the_readings(self):
        lines = bill_of(
            "rate 10\nwindow night 22:00 06:00 1",
            "2026-03-01 21:00 100",
            "2026-03-01 23:00 110",
            "2026-03-02 07:00 126",
        )
        self.assertEqual(
            [line[:2] for line in lines], [("night", Decimal(19)), ("rest", Decimal(7)), ("total", Decimal(26))]
        )
        self.assertEqual([line[2] for line in lines], [19, 70, 89])

    def test_meter_goes_through_zero(self):
        lines = bill_of("rate 10", "2026-03-01 00:00 99987.5", "2026-03-02 12:00 00003.0")
        self.assertEqual(lines, [("rest", Decimal("15.500"), 155), ("total", Decimal("15.500"), 155)])

    def test_days_of_the_standing_charge(self):
        for start, end, days in (
            ("2026-03-01 23:59", "2026-03-02 00:00", 1),
            ("2026-03-01 23:59", "2026-03-02 00:01", 2),
            ("2026-02-01 00:00", "2026-03-01 00:00", 28),
        ):
            lines = bill_of("rate 10\nstanding 0.5", f"{start} 10", f"{end} 10")
            self.assertEqual(lines, [("standing", days, (days + 1) // 2), ("total", Decimal("0.000"), (days + 1) // 2)])

    def test_rounding_is_half_up_and_only_once(self):
        lines = bill_of("rate 0.5\nvat 50", "2026-03-01 00:00 10", "2026-03-02 00:00 11")
        self.assertEqual([line[2] for line in lines], [1, 1, 2])
        lines = bill_of("rate 1000\nwindow a 00:00 08:00 1000", "2026-03-01 00:00 10", "2026-03-02 00:00 11")
        self.assertEqual(lines[0], ("a", Decimal("0.333"), 333))
        self.assertEqual(lines[1], ("rest", Decimal("0.667"), 667))
        lines = bill_of("rate 2.675", "2026-03-01 00:00 0100", "2026-03-02 00:00 0300")
        self.assertEqual(lines[0][2], 535)

    def test_many_readings_leave_no_crumbs(self):
        readings = [f"2026-03-01 {minute // 60:02}:{minute % 60:02} {minute // 7:04}" for minute in range(0, 1440, 7)]
        lines = bill_of("rate 100\nwindow a 01:23 04:56 100\nwindow b 23:00 01:00 100", *readings)
        self.assertEqual(lines[-1][1], Decimal("205.000"))
        self.assertEqual([line[1] for line in lines[:2]], [Decimal("30.429"), Decimal("16.429")])
        self.assertEqual([line[2] for line in lines], [3043, 1643, 15814, 20500])

    def test_quantities_have_three_places(self):
        lines = bill_of("rate 10\nvat 7.5", "2026-03-01 00:00 10", "2026-03-02 00:00 12")
        self.assertEqual([str(line[1]) for line in lines], ["2.000", "7.5", "2.000"])


class RenderTest(unittest.TestCase):
    def test_render(self):
        text = render(bill_of(FULL, "2026-03-01 00:00 0100.0", "2026-03-05 13:30 0424.6"))
        expected = """\
night          112.647       21.68
peak            35.573       17.07
rest           176.381       55.56
standing             5        1.78
vat                 19       18.26
total          324.600      114.35"""
        self.assertEqual(text.splitlines(), expected.splitlines())
        self.assertFalse(text.endswith("\n"))

    def test_small_amounts(self):
        self.assertEqual(render([("night", Decimal("12.345"), 238)]), "night           12.345        2.38")
        self.assertEqual(render([("total", Decimal("0.000"), 5)]), "total            0.000        0.05")


if __name__ == "__main__":
    unittest.main()
