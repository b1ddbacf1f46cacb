"""Which icons of `@iconify/json` are taken: names of objects, words of style, licences, families and held-out ones."""

import re
from dataclasses import dataclass


# Each class of objects, with the other names under which sets have it.
OBJECTS = {
    "bag": ("shopping-bag", "bag-shopping", "bag", "handbag"),
    "battery": ("battery", "battery-full", "battery-half", "battery-medium", "battery-high"),
    "bell": ("bell", "notification", "notifications", "bell-ring"),
    "bolt": ("bolt", "lightning", "lightning-bolt", "flash", "zap", "thunderbolt", "thunder"),
    "book": ("book", "book-closed", "notebook", "journal"),
    "bookmark": ("bookmark", "bookmarks-simple", "bookmark-simple"),
    "briefcase": ("briefcase", "suitcase", "work", "bag-briefcase", "portfolio"),
    "bulb": ("bulb", "lightbulb", "light-bulb", "idea", "lamp-bulb"),
    "calendar": ("calendar", "calendar-blank", "calendar-month", "date", "event"),
    "camera": ("camera", "photo-camera", "camera-photo"),
    "car": ("car", "automobile", "directions-car", "vehicle-car", "car-front"),
    "card": ("credit-card", "card", "bank-card", "payment-card", "creditcard"),
    "chat": ("chat", "comment", "message", "chat-bubble", "speech-bubble", "message-circle", "bubble", "chat-circle"),
    "clock": ("clock", "time", "schedule", "access-time", "clock-circle"),
    "cloud": ("cloud", "cloudy", "cloud-queue"),
    "compass": ("compass", "explore", "safari-compass", "navigation-compass"),
    "crown": ("crown", "crown-king"),
    "droplet": ("droplet", "drop", "water-drop", "raindrop", "blood-drop"),
    "eye": ("eye", "view", "visibility", "eye-open", "show", "preview-open"),
    "file": ("file", "document", "page", "file-text", "document-text", "doc"),
    "fire": ("fire", "flame", "local-fire-department", "burn"),
    "flag": ("flag", "flag-banner", "flag-pennant"),
    "folder": ("folder", "folder-closed", "directory"),
    "gear": ("gear", "cog", "settings", "setting", "gear-six", "config"),
    "gift": ("gift", "present", "gift-box", "redeem", "gift-card-box"),
    "globe": ("globe", "world", "earth", "planet-earth", "public", "internet"),
    "heart": ("heart", "favorite", "favourite", "love"),
    "home": ("home", "house", "home-simple", "home-house", "home-variant"),
    "hourglass": ("hourglass", "hourglass-half", "hourglass-top", "hourglass-bottom", "hourglass-medium", "sandglass"),
    "image": ("image", "picture", "photo", "photograph"),
    "key": ("key", "vpn-key", "key-skeleton", "password-key"),
    "lock": ("lock", "padlock", "lock-closed", "locked", "lock-on", "https"),
    "mail": ("mail", "envelope", "email", "envelope-closed"),
    "microphone": ("microphone", "mic", "mic-on", "mike"),
    "moon": ("moon", "dark-mode", "crescent", "moon-night", "night-clear"),
    "pencil": ("pencil", "pen", "edit-pencil", "write", "create"),
    "phone": ("phone", "call", "telephone", "phone-call", "handset", "phone-handset"),
    "pin": ("location", "map-pin", "location-pin", "place", "map-marker", "marker", "location-on", "pin-location"),
    "rocket": ("rocket", "rocket-launch", "spaceship", "space-rocket"),
    "search": ("search", "magnifying-glass", "magnifier", "magnify", "loupe", "zoom"),
    "shield": ("shield", "shield-blank", "security", "guard"),
    "star": ("star", "grade", "star-rate"),
    "sun": ("sun", "light-mode", "sunny", "clear-day"),
    "tag": ("tag", "label", "price-tag", "sell", "pricetag"),
    "trash": ("trash", "delete", "trash-can", "bin", "trash-bin", "garbage", "recycle-bin", "dustbin"),
    "trophy": ("trophy", "award-cup", "cup-trophy", "champion", "winner-cup"),
    "umbrella": ("umbrella", "umbrella-open", "parasol", "beach-access"),
    "user": ("user", "person", "account", "people-single", "user-single"),
}
STYLES = ("solid", "outline")
STYLE_WORDS = {
    "solid": {"solid", "fill", "filled", "baseline", "f"},
    "outline": {"outline", "outlined", "line", "linear", "stroke", "regular", "o"},
}
# Words that change neither the object nor its style: sizes, corners, ends of lines, and numbers of variants.
NEUTRAL_WORDS = {"sharp", "round", "rounded", "alt", "alternate", "variant", "small", "sm", "large", "big", "classic"}
NEUTRAL_WORDS |= {"one", "two", "three", "bold", "ios", "md", "bx", "bxs", "ltr", "i", "24px", "basic", "normal"}

LICENSES = ("Apache-2.0", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "Unlicense")
LEFT_OUT_CATEGORIES = ("Emoji", "Logos", "Programming")  # brands, and images of many colours
# Their lines are thinner than a pixel of 32, they consist of few large pixels, or they move.
LEFT_OUT_SETS = ("dinkie-icons", "ginetex", "line-md", "material-symbols-light", "memory", "pixelarticons",
                 "svg-spinners", "uit", "pixel")  # fmt: skip

# Sets that draw on one another are one family, so that none of them is held out alone.
FAMILIES = {
    "bx": ("boxicons", "bx", "bxs"),
    "feather": ("feather", "lucide", "lucide-lab", "vadivam", "mynaui"),
    "fluent": ("fluent", "fluent-mdl2"),
    "glyphs": ("glyphs",),
    "heroicons": ("heroicons", "heroicons-outline", "heroicons-solid", "sidekickicons"),
    "icon-park": ("icon-park-outline", "icon-park-solid", "icon-park-twotone"),
    "ion": ("famicons", "ion"),
    "material": ("ic", "material-symbols", "mdi"),
    "mono-icons": ("mi", "mono-icons"),
    "unicons": ("uil", "uim", "uis"),
}
HELD_OUT_FAMILIES = ("clarity", "eva", "flowbite", "gravity-ui", "humbleicons", "lsicon", "majesticons", "proicons",
                     "rivet-icons", "teenyicons")  # fmt: skip

_OBJECT_OF = {name: kind for kind, names in OBJECTS.items() for name in names}
_FAMILY_OF = {member: family for family, members in FAMILIES.items() for member in members}


@dataclass(frozen=True)
class IconName:
    """What the name of an icon tells: its object, and its style where a word of it says so."""

    object: str
    style: str | None


def read_name(name: str) -> IconName | None:
    """The object and style that a name tells, or `None` if it names no object of `OBJECTS`, or more than one thing."""
    core, styles = [], set()
    for word in name.split("-"):
        told = {style for style, words in STYLE_WORDS.items() if word in words}
        styles |= told
        if not told and word not in NEUTRAL_WORDS and not word.isdigit():
            core.append(re.sub(r"(?<=[a-z])\d+$", "", word))
    kind = _OBJECT_OF.get("-".join(core))
    if kind is None or len(styles) > 1:
        return None
    return IconName(kind, styles.pop() if styles else None)


def family_of(prefix: str) -> str:
    """The family of a set."""
    return _FAMILY_OF.get(prefix, prefix)


def class_names() -> list[str]:
    """The names of all classes: `heart` is solid, `heart outline` is not."""
    return [kind if style == "solid" else f"{kind} {style}" for kind in OBJECTS for style in STYLES]


def is_taken(prefix: str, collection: dict) -> bool:
    """Whether a set of `collections.json` may be used: its licence, its colours and what it shows."""
    return (
        collection["license"].get("spdx") in LICENSES
        and not collection.get("palette")
        and collection.get("category") not in LEFT_OUT_CATEGORIES
        and prefix not in LEFT_OUT_SETS
    )
