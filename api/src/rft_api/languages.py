"""The codes of the languages that the builtin Format can detect: those of CLD2's tables."""

from __future__ import annotations

_CODES = """
aa ab af ak am ar as ay az ba be bg bh bi bn bo br bs ca ceb chr co crs cs cy da de dv dz el en eo es et eu fa fi fj
fo fr fy ga gd gl gn gu gv ha haw hi hmn hr ht hu hy ia id ie ig ik is it iu he ja jv ka kha kk kl km kn ko ks ku ky
la lb lg lif ln lo lt lv mfe mg mi mk ml mn mr ms mt my na ne nl nn no nr nso ny oc om or pa pl ps pt qu rm rn ro ru
rw sa sco sd sg si sk sl sm sn so sq sr ss st su sv sw syr ta te tg th ti tk tl tn to tr ts tt ug uk ur uz ve vi vo
war wo xh yi yo za zh zu
"""

LANGUAGES = frozenset(_CODES.split())
