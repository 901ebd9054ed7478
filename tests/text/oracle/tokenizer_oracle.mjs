// Writes JSONL of {"text", "ids"}: generated lines and what npm's @huggingface/tokenizers makes of them.
//   node tokenizer_oracle.mjs TOKENIZER_JSON LINES > out.jsonl
//
// The package follows Hugging Face's Rust tokenizers except for what is left out of the lines below:
// - Inside of (?i:...) it folds ASCII letters only, while Oniguruma (Rust) folds by Unicode: U+017F is an s there, so
//   "'ſ" is a contraction. The C++ tests cover it.
// - It classifies by the Unicode version of Node's ICU. Random code points are drawn from blocks that were full
//   before Unicode 14 (PCRE2 10.42); letters that are newer may be letters in one library and unassigned in another.
// - JavaScript strings hold UTF-16: ill-formed text is not compared here.
// \s needs no exception: the package rewrites it to White_Space, 25 code points, as Oniguruma does (U+0085 yes, U+FEFF
// and U+180E no); all of these are in the lines.
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";

const [path, count] = process.argv.slice(2);
const json = JSON.parse(readFileSync(path, "utf8"));
const tokenizer = new Tokenizer(json, {});

let state = 0x9e3779b9;
function random(bound) {
  // mulberry32: the same lines on every machine.
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % bound;
}
const pick = (list) => list[random(list.length)];
const times = (bound, make) => Array.from({ length: 1 + random(bound) }, make).join("");

const words = ("The the king's daughter I'm you'LL we've they'Re can'T it'd Hello world tokenizer Straße naïve café " +
  "Übergrößenträger déjà Ελλάδα Θεός Привет мир Київ שלום עולם مرحبا بالعالم नमस्ते दुनिया বাংলা ไทยภาษา 你好世界 " +
  "漢字かな交じり文 カタカナ 한국어 조선말 ქართული Հայերեն ትግርኛ ខ្មែរ မြန်မာ ᏣᎳᎩ e\u0301a\u0308 ﬁﬂ Ǆ ß ẞ İ ı").split(" ");
const emoji = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "1️⃣", "🫠", "☃", "♞"];
const spaces = [" ", "  ", "    ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n  ", "\u00a0", "\u0085", "\u1680", "\u2003",
  "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u180e", "\ufeff", "\u200b", "\v", "\f", "\x1c"];
const numbers = ["0", "42", "2024", "1234567", "3.14159", "1,000,000", "٣٤٥٦", "१२३४", "Ⅷ", "½", "①②③④", "10²", "0xFF"];
const code = ["for (int i = 0; i < n; ++i) {\n    a[i] += b[i];\n}\n", "def f(x):\n\treturn x**2  # square\n",
  "SELECT * FROM t WHERE a='b''s';", "{\"key\": [1, 2.5e-3, null], \"k\\n\": \"\\u00e9\"}", "<div class=\"x\">&nbsp;</div>",
  "https://example.com/a?b=c&d=%20#e", "$ git commit -m \"it's\"\n", "/*-+*/ x->y::z<T>&& !!a ~b ^c | d", "\\begin{x}\\s+\\end"];
const marks = [".", ",", "!?", "...", "—", "“", "”", "'", "''", "(", ")", "[", "]", "«", "»", "、", "。", "/", "\\", "_", "#", "€"];
const added = json.added_tokens.map((token) => token.content);
const nearly = added.flatMap((text) => [text.slice(0, -1), text.slice(1), text.toUpperCase(), ` ${text} `, text + text]);
const blocks = [[0x01, 0x7e], [0xa1, 0x24f], [0x391, 0x3a1], [0x400, 0x4ff], [0x5d0, 0x5ea], [0x621, 0x64a],
  [0x905, 0x939], [0xe01, 0xe3a], [0x1e00, 0x1eff], [0x2010, 0x2027], [0x2190, 0x23ff], [0x2500, 0x27bf],
  [0x3041, 0x3096], [0x30a1, 0x30ff], [0x4e00, 0x9fa5], [0xac00, 0xd7a3], [0xe000, 0xe0ff], [0xff01, 0xff5e],
  [0x10000, 0x1000b], [0x10400, 0x1044f], [0x1d400, 0x1d454], [0x1f300, 0x1f5ff], [0x1f600, 0x1f64f], [0x20000, 0x2a6d6]];

function anyCharacter() {
  const [low, high] = pick(blocks);
  const character = String.fromCodePoint(low + random(high - low + 1));
  return character === "\u017f" ? "s" : character;
}

const kinds = [
  () => pick(words), () => " " + pick(words), () => pick(words).toUpperCase(), () => pick(words) + pick(marks),
  () => pick(emoji), () => times(4, () => pick(spaces)), () => pick(numbers), () => pick(code),
  () => times(3, () => pick(marks)), () => pick(added), () => pick(nearly), () => times(6, anyCharacter),
];

const out = [];
for (let line = 0; line < Number(count); ++line) {
  const text = times(12, () => pick(kinds)());
  out.push(JSON.stringify({ text, ids: tokenizer.encode(text, { add_special_tokens: false }).ids }));
}
process.stdout.write(out.join("\n") + "\n");
