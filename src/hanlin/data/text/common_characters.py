"""Lists of frequent and of common Chinese characters, to tell a right decoding from a wrong one."""

from __future__ import annotations

# The commonest characters of modern Chinese: simplified ones by frequency, then traditional ones, then punctuation. A
# fifth of the list would do to tell a right decoding (over half of all characters are here) from a wrong one (a few
# percent).
CHARS_BY_FREQUENCY = (
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事"
    "只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情"
    "部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处"
    "总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象"
    "记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领"
    "传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史"
    "商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏准"
    "這個們來為國說時會對後發經學種過動麼還進裡樣開現將與長機當無從關點業兩間問實應戰頭體見產話證書車東馬門風長電聽類難題願親龍變讓認識讀語"
    "議論講許請調誰該記設試詩誤課談謝護讚貝負財責貴費資賣賽軍轉輕較載農近連運達遠選還邊郵鄉醫釋針銀錢錯鎮鐵開閉隊陽陸陳險隨雖雙雜離靈順須領"
    "頁飛飯館驗鬥魚鳥黃點黨齊歲歷歸殺氣決沒沖洲淚淨滿漢灣營爭獨環畫異療盡監眾碼確禮種積稱競筆節約級紅紙細終組結給統絕經線練總績續網緊義習聖"
    "聞聲職聯臉臨舉舊華萬葉蘇處號蟲術衛裝複觀規視覺計訊訓"
    "，。、；：？！“”‘’（）《》「」『』…—·　．～【】"
)


FREQUENT_CHARS = frozenset(CHARS_BY_FREQUENCY)


def _list_common_chars() -> frozenset[str]:
    """Characters of the first levels of GB 2312 and Big5: 3,755 simplified and 5,401 traditional ones."""
    simplified = [bytes([lead, trail]) for lead in range(0xB0, 0xD8) for trail in range(0xA1, 0xFF)]
    trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
    traditional = [bytes([lead, trail]) for lead in range(0xA4, 0xC7) for trail in trails]
    chars = b"".join(pair for pair in simplified if pair < b"\xd7\xfa").decode("gb2312")
    others = b"".join(pair for pair in traditional if pair < b"\xc6\x7f").decode("big5")
    return frozenset((*chars, *others, *FREQUENT_CHARS))


COMMON_CHARS = _list_common_chars()
