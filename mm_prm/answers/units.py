"""Units of measurement: what stands behind a number, how it is spelt, and what it is in other units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mm_prm.answers.text import words


@dataclass(frozen=True)
class Unit:
    """dimension: powers of base quantities, {"m": 1, "s": -1} as sorted pairs; factor: this unit in base units.

    A word that is no known unit ("students") is a dimension of its own.
    """

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)
    known: bool = True

    def __mul__(self, other: Unit) -> Unit:
        powers = dict(self.dimension)
        for name, power in other.dimension:
            powers[name] = powers.get(name, 0) + power
        dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
        return Unit(dimension, self.factor * other.factor, self.known and other.known)

    def __pow__(self, power: int) -> Unit:
        return Unit(tuple((name, p * power) for name, p in self.dimension), self.factor**power, self.known)


PERCENT = Unit((("%", 1),))
DEGREE = Unit((("degree", 1),))
ANY = Unit((("unit", 1),))  # "5 units", which says nothing
_METRE, _GRAM, _SECOND = (Unit(((name, 1),)) for name in "mgs")
_NEWTON = Unit((("g", 1), ("m", 1), ("s", -2)), Fraction(1000))
# One line for every unit: its size in others, and its spellings. From the SI brochure and the US customary definitions
# (NIST Handbook 44, appendix C), both exact.
_TABLE: list[tuple[Unit, str]] = [
    (DEGREE, r"^\circ degree degrees deg degs 度"),
    (Unit(DEGREE.dimension, Fraction(1, 60)), "' arcmin arcminutes"),
    (Unit(DEGREE.dimension, Fraction(1, 3600)), "'' arcsec arcseconds"),
    (PERCENT, "% percent per\u00a0cent percentage pct 个百分点"),
    (ANY, "unit units 单位 个单位"),
    (Unit((("radian", 1),)), "rad rads radian radians 弧度"),
    (_METRE, "m meter meters metre metres 米"),
    (_GRAM, "g gram grams 克"),
    (_SECOND, "s sec secs second seconds 秒"),
    (Unit(_METRE.dimension, Fraction("0.0254")), "in inch inches"),
    (Unit(_METRE.dimension, Fraction("0.3048")), "ft foot feet"),
    (Unit(_METRE.dimension, Fraction("0.9144")), "yd yds yard yards"),
    (Unit(_METRE.dimension, Fraction("1609.344")), "mi mile miles"),
    (Unit(_GRAM.dimension, Fraction("453.59237")), "lb lbs pound pounds"),
    (Unit(_GRAM.dimension, Fraction("28.349523125")), "oz ounce ounces"),
    (Unit(_GRAM.dimension, Fraction(10**6)), "t ton tons tonne tonnes 吨"),
    (Unit(_SECOND.dimension, Fraction(60)), "min mins minute minutes 分 分钟"),
    (Unit(_SECOND.dimension, Fraction(3600)), "h hr hrs hour hours 时 小时"),
    (Unit(_SECOND.dimension, Fraction(86400)), "day days 天"),
    (Unit(_SECOND.dimension, Fraction(604800)), "week weeks 周"),
    (Unit((("m", 3),), Fraction(1, 1000)), "L l liter liters litre litres 升"),
    (_NEWTON, "N newton newtons 牛"),
    (_NEWTON * _METRE, "J joule joules 焦"),
    (_NEWTON * _METRE * _SECOND**-1, "W watt watts 瓦"),
    (_NEWTON * _METRE**-2, "Pa pascal pascals"),
    (_SECOND**-1, "Hz hertz"),
    (Unit((("V", 1),)), "V volt volts 伏"),
    (Unit((("A", 1),)), "A amp amps ampere amperes 安"),
    (Unit((("ohm", 1),)), r"\Omega ohm ohms Ω"),
    (Unit((("mol", 1),)), "mol mole moles"),
    (Unit((("K", 1),)), "K kelvin kelvins"),
    (Unit((("celsius", 1),)), r"^\circ\u00a0C".replace(r"\u00a0", "\u00a0") + r" ^\circC celsius 摄氏度"),
    (Unit((("fahrenheit", 1),)), r"^\circF fahrenheit" + " ^\\circ\u00a0F"),
    (Unit((("dollar", 1),)), r"\$ dollar dollars usd USD 美元"),
    (Unit((("dollar", 1),), Fraction(1, 100)), r"cent cents ¢ \cent"),
    (Unit((("yuan", 1),)), "元 yuan rmb RMB 块"),
    (Unit((("euro", 1),)), "€ euro euros"),
    (Unit((("m", 1), ("s", -1)), Fraction("0.44704")), "mph"),
]
_PREFIXES = {"k": 3, "M": 6, "G": 9, "d": -1, "c": -2, "m": -3, "\\mu": -6, "μ": -6, "µ": -6, "n": -9}
_LONG_PREFIXES = {"kilo": 3, "mega": 6, "giga": 9, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9}
_CHINESE: dict[str, int | Fraction] = {
    "千米": 1000,
    "公里": 1000,
    "分米": Fraction(1, 10),
    "厘米": Fraction(1, 100),
    "毫米": Fraction(1, 1000),
}
_TAKE_PREFIX = {"m", "g", "s", "L", "l", "N", "J", "W", "Pa", "Hz", "V", "A", "mol"}


def _all_units() -> dict[str, Unit]:
    units = {alias.replace("\u00a0", " "): unit for unit, aliases in _TABLE for alias in aliases.split(" ")}
    for symbol in _TAKE_PREFIX:
        for prefix, power in _PREFIXES.items():
            if prefix in "dc" and symbol not in "mgLl":
                continue  # 3ds is d times s rather than deciseconds
            units.setdefault(prefix + symbol, Unit((), Fraction(10) ** power) * units[symbol])
    for name in [alias for alias in units if len(alias) > 3 and alias[0] in "mglnjwphva" and alias.isalpha()]:
        for prefix, power in _LONG_PREFIXES.items():
            units.setdefault(prefix + name, Unit((), Fraction(10) ** power) * units[name])
    units |= {name: Unit(_METRE.dimension, Fraction(size)) for name, size in _CHINESE.items()}
    units |= {"千克": Unit(_GRAM.dimension, Fraction(1000)), "公斤": Unit(_GRAM.dimension, Fraction(1000))}
    return units | {
        "毫升": Unit((("m", 3),), Fraction(1, 10**6)),
        **dict.fromkeys(["kph", "kmh"], units["km"] * units["h"] ** -1),
    }


UNITS = _all_units()
_FOLDED = {name.lower(): unit for name, unit in UNITS.items() if len(name) > 3}  # Meters, but not MM for mm
_ALIAS = "|".join(re.escape(name) for name in sorted(UNITS, key=len, reverse=True))
_FACTOR = re.compile(
    rf"\(? ?(?P<power_word>square|cubic|sq\.?|cu\.?|平方|立方)? ?(?:(?P<name>{_ALIAS})"
    rf"|(?P<word>[a-zA-Z]{{4,}}))(?![a-zA-Z'])"
    r"\.?( ?\^ ?\{?(?P<power>-?[1-4])\}?| (?P<behind>squared|cubed))? ?\)?"
)
_SYMBOLS = re.compile(r"(?!.*\bin\b)[^ ]*?[a-zA-Z]{1,3}(?:\^\{?-?\d\}?)? [a-zA-Z]{1,3}(?: ?\^ ?\{?-?\d\}?)? ?")
_PREPOSITION = re.compile(r"in (?:total|all|the|an?|his|her|its|their|each|every|one|this|that|[A-Z])\b")  # no inches
_JOINT = re.compile(r" ?(?P<over>/|\bper\b|每)? ?(?:\*|\\cdot|\\times)? ?")
_POWER_WORDS = {"sq": 2, "cu": 3, "平方": 2, "立方": 3, None: 1}


def _factor(text: str, at: int) -> tuple[Unit, int] | None:
    found = _FACTOR.match(text, at)
    unit = found and (UNITS.get(found["name"] or "") or _FOLDED.get((found["word"] or "").lower()))
    if not found or not unit:
        return None
    power = _POWER_WORDS[(found["power_word"] or found["behind"] or "")[:2] or None]
    return unit ** (int(found["power"]) if found["power"] else power), found.end()


def leading_unit(text: str) -> tuple[Unit, int] | None:
    """The longest unit that a text begins with, and where it ends."""
    if not (first := _factor(text, 0)):
        return None
    unit, at = first
    if _PREPOSITION.match(text):
        return None
    while at < len(text):
        joint = _JOINT.match(text, at)
        assert joint  # it matches nothing as well
        if not (more := _factor(text, joint.end())):
            break
        if not joint.group().strip() and not _SYMBOLS.fullmatch(
            text[:at].split()[-1] + " " + text[joint.end() : more[1]]
        ):
            break  # minutes in total are no product
        unit, at = unit * (more[0] ** -1 if joint["over"] else more[0]), more[1]
    return unit, at


def read_unit(text: str) -> Unit | None:
    r"""`square cm`, `km/h`, `m s^{-1}`, `^\circ`: the unit a text is, wholly, or None."""
    text = text.strip()
    found = leading_unit(text)
    return found[0] if found and found[1] == len(text) else None


# Words that say more than what is counted: with one of them the number is not the whole of the answer.
BLOCKING = re.compile(
    r"\b(?:not|no|never|neither|nor|non|none|un\w+|or|either|and|plus|minus|negative|times|of|off|than|more|less|fewer|"
    r"least|most|up|under|over|above|below|between|within|to|from|until|before|after|every|each|except|without|if|but|"
    r"faster|slower|longer|shorter|taller|older|younger|higher|lower|greater|smaller|larger|bigger|heavier|lighter|cheaper|farther|"
    r"further|tens|tenths|hundredths|thousandths|fourths|fifths|sixths|sevenths|eighths|ninths|"
    r"half|halves|thirds?|quarters?|twice|double|triple|dozens?|pairs?|"
    r"hundreds?|thousands?|millions?|billions?|"
    r"trillions?|squared|cubed|base|remainder|mod|modulo|root|roots|power|maybe|perhaps|possibly|cannot|"
    r"wrong|incorrect|false|too|almost|nearly|unknown|ago|by|with|rounded|point|factorial|exceeds?|divided|multiplied|"
    r"\w*(?:north|south|east|west)\w*|clockwise|counter\w*|downwards?|upwards?|positive|opposite|previous|extra|additional|"
    r"pi|approx\w*|about|roughly|around)\b|n't|[不非未无没半]|以[上下内]|至[少多]|超过|大于|小于|左右|以及|或|和|[百千万亿倍]",
    re.IGNORECASE,
)
_SHORT_NOUNS = words("men day cat dog cow hen pen pig car bus box bag cup boy egg kid toy way pcs")
_NO_NOUNS = words("sin cos tan cot sec csc log ln exp sqrt abs arcsin arccos arctan is are was were has have")
_COUNTED = re.compile(r"[a-z][a-z.'-]*(?: [a-z][a-z'-]*){0,3}|[\u4e00-\u9fff]{1,4}", re.IGNORECASE)


def read_counted(text: str) -> Unit | None:
    """`students`, `children tickets`: what is counted, as a unit of its own. None when words may change the number."""
    text = text.strip()
    phrase = text.lower().split()
    if phrase == ["times"]:  # but 3 times as many
        return Unit((("time", 1),), known=False)
    if not _COUNTED.fullmatch(text) or BLOCKING.search(text) or any(word in _NO_NOUNS for word in phrase):
        return None
    if text.isascii() and not any(len(word) > 3 or word in _SHORT_NOUNS for word in phrase):
        return None  # abc is a product
    return Unit(((" ".join(phrase).removesuffix("s"), 1),), known=False)
