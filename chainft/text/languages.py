"""Languages by code: their names for prompts, and the codes that multilingual models have for them.

ISO 639-1 codes with, after the English name, the code of FLORES-200 (ISO 639-3 and ISO 15924), which NLLB uses; mBART
writes `de_DE`, M2M100 `de`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_TABLE = """
af Afrikaans afr_Latn|am Amharic amh_Ethi|ar Arabic arb_Arab|az Azerbaijani azj_Latn|be Belarusian bel_Cyrl
bg Bulgarian bul_Cyrl|bn Bengali ben_Beng|bs Bosnian bos_Latn|ca Catalan cat_Latn|cs Czech ces_Latn
cy Welsh cym_Latn|da Danish dan_Latn|de German deu_Latn|el Greek ell_Grek|en English eng_Latn
eo Esperanto epo_Latn|es Spanish spa_Latn|et Estonian est_Latn|eu Basque eus_Latn|fa Persian pes_Arab
fi Finnish fin_Latn|fr French fra_Latn|ga Irish gle_Latn|gl Galician glg_Latn|gu Gujarati guj_Gujr
ha Hausa hau_Latn|he Hebrew heb_Hebr|hi Hindi hin_Deva|hr Croatian hrv_Latn|hu Hungarian hun_Latn
hy Armenian hye_Armn|id Indonesian ind_Latn|ig Igbo ibo_Latn|is Icelandic isl_Latn|it Italian ita_Latn
ja Japanese jpn_Jpan|ka Georgian kat_Geor|kk Kazakh kaz_Cyrl|km Khmer khm_Khmr|kn Kannada kan_Knda
ko Korean kor_Hang|lb Luxembourgish ltz_Latn|lo Lao lao_Laoo|lt Lithuanian lit_Latn|lv Latvian lvs_Latn
mk Macedonian mkd_Cyrl|ml Malayalam mal_Mlym|mr Marathi mar_Deva|ms Malay zsm_Latn|mt Maltese mlt_Latn
my Burmese mya_Mymr|nb Norwegian nob_Latn|ne Nepali npi_Deva|nl Dutch nld_Latn|nn Nynorsk nno_Latn
no Norwegian nob_Latn|pa Punjabi pan_Guru|pl Polish pol_Latn|pt Portuguese por_Latn|ro Romanian ron_Latn
ru Russian rus_Cyrl|si Sinhala sin_Sinh|sk Slovak slk_Latn|sl Slovene slv_Latn|so Somali som_Latn
sq Albanian als_Latn|sr Serbian srp_Cyrl|sv Swedish swe_Latn|sw Swahili swh_Latn|ta Tamil tam_Taml
te Telugu tel_Telu|th Thai tha_Thai|tl Tagalog tgl_Latn|tr Turkish tur_Latn|uk Ukrainian ukr_Cyrl
ur Urdu urd_Arab|uz Uzbek uzn_Latn|vi Vietnamese vie_Latn|xh Xhosa xho_Latn|yo Yoruba yor_Latn
zh Chinese zho_Hans|zu Zulu zul_Latn
"""
_ROWS = [row.split() for line in _TABLE.split("\n") for row in line.split("|") if row]
NAMES = {code: name for code, name, _ in _ROWS}
"""ISO 639-1 code -> English name."""
_FLORES = {code: flores for code, _, flores in _ROWS}
_FROM_FLORES = {flores: code for code, flores in reversed(_FLORES.items())}


def base_code(code: str) -> str:
    """The ISO 639-1 code of a language code, as far as the table has it; else its first part.

    >>> [base_code(code) for code in ("de", "de_DE", "deu_Latn", "pt-BR", "gsw")]
    ['de', 'de', 'de', 'pt', 'gsw']
    """
    return _FROM_FLORES.get(code, re.split("[-_]", code)[0].lower())


def name_of(code: str) -> str | None:
    """The English name of a language; None for one that the table lacks.

    >>> name_of("de_DE"), name_of("gsw")
    ('German', None)
    """
    return NAMES.get(base_code(code))


def model_code(code: str, known: Collection[str]) -> str | None:
    """The code among `known`, those of a model, that means the language; None where none does.

    >>> model_code("de", ["en_XX", "de_DE"]), model_code("en", ["eng_Latn", "deu_Latn"]), model_code("de", ["en_XX"])
    ('de_DE', 'eng_Latn', None)
    """
    if code in known:
        return code
    base = base_code(code)
    regional = sorted(one for one in known if re.fullmatch(rf"{re.escape(base)}_[A-Z]{{2}}", one))
    return next((one for one in (base, _FLORES.get(base), *regional) if one in known), None)
