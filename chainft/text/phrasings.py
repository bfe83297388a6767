"""How values of slots are put in words where they are not copied: those of E2E (and of the starter data).

Written by hand for chainft while reading the meanings and texts of E2E's validation data. `...` stands for up to three
words; case, accents, hyphens and punctuation do not count.
"""

from __future__ import annotations

from collections.abc import Mapping

_CHEAP = (
    *("cheap", "inexpensive", "low price", "low priced", "low prices", "low cost", "lower price", "affordable"),
    *("prices ... low", "price ... low", "cheaply", "budget", "less than £20", "under £20"),
    *("below £20", "less than 20", "under 20", "less then £20", "cheaper"),
)
_MODERATE = (
    *("moderate price", "moderate prices", "moderate priced", "moderately priced", "moderate ... price"),
    *(
        "moderate cost",
        "prices ... moderate",
        "price ... moderate",
        "moderately price",
        "average price",
        "average priced",
        "average prices",
        "mid priced",
        "mid price",
    ),
    *("mid range", "medium price", "medium priced", "reasonable", "reasonably", "fair price", "fairly priced"),
    *("£20 25", "£20 £25", "£20 to £25", "20 25", "20 to 25", "£20 to 25", "£20 and £25", "20 and 25", "£20 and 25"),
    *("average cost", "price ... average", "prices ... average"),
)
_DEAR = (
    *("expensive", "high price", "high priced", "high prices", "high cost", "higher price", "higher priced", "pricey"),
    *("prices ... high", "price ... high", "high end", "costly", "more than £30", "over £30"),
    *("above £30", "more than 30", "over 30", "more then £30", "upscale"),
)
_LOW = (
    *("low rating", "low ratings", "low rated", "low customer rating", "low customer ratings", "poorly rated"),
    *("rated low", "rating ... low", "ratings ... low", "poor rating", "poor customer rating", "badly rated"),
    *("low customer", "poor customer ratings", "bad rating", "rate it low", "low scores", "not highly rated"),
    *("1 out of 5", "one out of five", "1 of 5", "one of five", "1 star", "one star", "rated 1", "rating of 1"),
    *(
        "1 out of five",
        "1 5",
        "1 out of 5 stars",
        "one out of five stars",
        "rated ... low",
        "poor reviews",
        "bad reviews",
    ),
)
_AVERAGE = (
    *("average rating", "average ratings", "average rated", "average customer rating", "average customer ratings"),
    *("rated average", "rated as average", "rating ... average", "ratings ... average", "average customer"),
    *("averagely rated", "mediocre", "average reviews", "decent rating", "average ... rating", "rated ... average"),
    *("3 out of 5", "three out of five", "3 of 5", "three of five", "3 star", "3 stars", "three star"),
    *("three stars", "rated 3", "rating of 3", "3 out of five", "3 5", "3 out of 5 stars", "three out of five stars"),
    *("good rating", "good ratings", "reviews ... average", "average quality", "moderately rated", "moderate rating"),
)
_HIGH = (
    *("high rating", "high ratings", "high rated", "high customer rating", "high customer ratings", "highly rated"),
    *("rated high", "rated highly", "rating ... high", "ratings ... high", "well rated", "great rating"),
    *("excellent rating", "high customer", "good rating", "rate it high", "rate it highly", "top rated"),
    *("rated ... high", "highly rate", "customers rate ... high"),
    *("5 out of 5", "five out of five", "5 of 5", "five of five", "5 star", "5 stars", "five star"),
    *("five stars", "rated 5", "rating of 5", "5 out of five", "5 5", "5 out of 5 stars", "five out of five stars"),
    *("excellent ... ratings", "excellent reviews", "great reviews", "highly ... rated", "high reviews"),
)
_FAMILIES = ("family", "kid", "kids", "child", "children", "families")
_WELCOME = (
    *(f"{one} friendly" for one in _FAMILIES),
    *(
        "friendly to children",
        "friendly for kids",
        "friendly for families",
        "families are welcome",
        "kids are welcome",
    ),
    *(
        "children are welcome",
        "family place",
        "for families",
        "for the whole family",
        "for the family",
        "welcomes kids",
    ),
    *("welcomes families", "welcomes children", "good for kids", "suitable for children", "suitable for families"),
    *("bring the kids", "bring the family", "bring your family", "bring your kids", "bring your children"),
    *("kids welcome", "family oriented", "family restaurant", "family pub", "family coffee shop", "family atmosphere"),
    *("families welcome", "family environment", "family venue", "for children", "for kids", "family style"),
)
_ADULTS = (
    *(f"non {one} friendly" for one in _FAMILIES),
    *(f"{one} unfriendly" for one in _FAMILIES),
    *(f"unfriendly {one}" for one in _FAMILIES),
    *("adults only", "adult only", "no children", "no kids", "child free", "kid free", "adult oriented", "for adults"),
    *(
        "non family",
        "adult pub",
        "adult establishment",
        "no families",
        "adult coffee shop",
        "adult restaurant",
        "adults",
    ),
    *("children are not", "kids are not", "families are not", "no family", "not for families", "not welcome"),
    *("unsuitable for children", "unsuitable for families", "adult", "isn t for families", "without children"),
)
_RIVERSIDE = ("riverside", "river side", "river", "waterside")
_CENTRE = (
    *("city centre", "city center", "centre of the city", "center of the city", "centre of town", "center of town"),
    *("town centre", "town center", "heart of the city", "downtown", "city s centre", "centre of city", "central"),
    *("middle of the city", "inner city", "center of city", "city area"),
)
PHRASINGS: Mapping[str, tuple[str, ...]] = {
    "familyFriendly[yes]": _WELCOME,
    "familyFriendly[no]": _ADULTS,
    "priceRange[cheap]": _CHEAP,
    "priceRange[less than £20]": _CHEAP,
    "priceRange[moderate]": _MODERATE,
    "priceRange[£20-25]": _MODERATE,
    "priceRange[high]": _DEAR,
    "priceRange[more than £30]": _DEAR,
    "customer rating[low]": _LOW,
    "customer rating[1 out of 5]": _LOW,
    "customer rating[average]": _AVERAGE,
    "customer rating[3 out of 5]": _AVERAGE,
    "customer rating[high]": _HIGH,
    "customer rating[5 out of 5]": _HIGH,
    "area[riverside]": _RIVERSIDE,
    "area[city centre]": _CENTRE,
    "eatType[pub]": ("pub", "pubs"),
    "eatType[coffee shop]": ("coffee shop", "coffee shops", "cafe shop", "coffeeshop", "coffee"),
    "food[English]": ("english", "british"),
    "food[Chinese]": ("chinese",),
    "food[French]": ("french",),
    "food[Indian]": ("indian",),
    "food[Italian]": ("italian", "pasta"),
    "food[Japanese]": ("japanese", "sushi"),
    "food[Fast food]": ("fast food", "fastfood", "fast", "burger and fries", "burgers"),
}
"""`slot[value]` -> phrasings. A phrasing of several values of a slot says any of them."""
