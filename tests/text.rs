//! Prompts to token ids against open_clip 3.3.0's answers (`golden/text`), and what must hold for every string.

use pcqa::text::{TextError, TokenIds, Tokenizer, clean};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

const START: u32 = 49406;
const END: u32 = 49407;
const CONTEXT: usize = 77;

const TOKENIZER_JSON: &[u8] = include_bytes!("../src/model/demo/tokenizer.json");

/// Group of prompts, to its vectors of prompt, cleaned text and ids.
type Vectors = BTreeMap<String, Vec<(String, String, Vec<u32>)>>;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer(CONTEXT));
/// A context that none of the strings made here fills.
static ROOMY: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer(100_000));

fn tokenizer(context_length: usize) -> Tokenizer {
    Tokenizer::from_json(TOKENIZER_JSON, context_length).unwrap()
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("golden/text/vectors.json")).unwrap()
}

#[test]
fn cleaning_equals_open_clip() {
    for (group, vectors) in vectors() {
        for (prompt, cleaned, _) in vectors {
            assert_eq!(clean(&prompt), cleaned, "{group}: {prompt:?}");
        }
    }
}

#[test]
fn ids_equal_open_clip() {
    let vectors = vectors();
    assert_eq!(vectors.values().map(Vec::len).sum::<usize>(), 235);
    for (group, vectors) in vectors {
        for (prompt, _, ids) in vectors {
            assert_eq!(*TOKENIZER.encode(&prompt).ids, *ids, "{group}: {prompt:?}");
        }
    }
}

#[test]
fn typed_control_tokens_are_plain_text() {
    let forms = ["x<end_of_text>y", "<END_OF_TEXT>", "<|endoftext|>", "&lt;end_of_text&gt;", "<start_of_text>"];
    for form in forms {
        let ids = TOKENIZER.encode(form).ids;
        assert!(ids[1..ids.len() - 1].iter().all(|id| *id < START), "{form}: {ids:?}");
    }
    let spelled = ["<", "end", "_", "of", "_", "text", ">"].map(|part| TOKENIZER.encode(part).ids[1]);
    assert_eq!(TOKENIZER.encode("<end_of_text>").ids[1..8], spelled);
    assert_eq!(TOKENIZER.encode("<end_of_text>").ids.len(), 9);
}

#[test]
fn a_prompt_is_cut_only_when_it_does_not_fit() {
    let cats = |count: usize| TOKENIZER.encode(&"cat ".repeat(count));
    let full = cats(75);
    assert_eq!((full.ids.len(), full.truncated), (77, false));
    let cut = cats(76);
    assert_eq!((cut.ids.len(), cut.truncated), (77, true));
    assert_eq!(cut.ids, full.ids);
    // A word of several ids that crosses the border is cut inside.
    let crossing = TOKENIZER.encode(&format!("{}supercalifragilistic", "cat ".repeat(74)));
    assert_eq!((crossing.ids.len(), crossing.truncated, crossing.ids[76]), (77, true, END));
    assert_eq!(TOKENIZER.encode(""), TokenIds { ids: [START, END].into(), truncated: false });
    assert_eq!(*tokenizer(2).encode("cat").ids, [START, END]);
}

#[test]
fn huge_prompts_are_cut() {
    let huge = [
        "a".repeat(1 << 20),
        "é ".repeat(1 << 15),
        "Ã©".repeat(1 << 15),
        "\u{301}".repeat(1 << 15),
        format!("&{}", "amp;".repeat(1 << 14)),
        "\u{1b}[".repeat(1 << 15),
    ];
    for prompt in huge {
        let tokens = TOKENIZER.encode(&prompt);
        assert!(tokens.truncated && tokens.ids.len() == CONTEXT, "{:?}…", prompt.get(..8));
    }
}

/// Deep nesting is the one place where the cleaning stops before ftfy would.
#[test]
fn entities_nested_deeper_than_any_prompt_keep_their_core() {
    let nested = |depth: usize| clean(&format!("&{}lt;", "amp;".repeat(depth)));
    assert_eq!(nested(31), "<");
    assert!(nested(100).starts_with("&amp;amp;"));
}

#[test]
fn both_spellings_of_a_tokenizer_file_mean_the_same() {
    let mut file: Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
    for merge in file["model"]["merges"].as_array_mut().unwrap() {
        *merge = merge.as_str().unwrap().split(' ').collect();
    }
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    for (ours, theirs) in [("<start_of_text>", "<|startoftext|>"), ("<end_of_text>", "<|endoftext|>")] {
        let id = vocab.remove(ours).unwrap();
        vocab.insert(theirs.to_owned(), id);
    }
    file["model"]["unk_token"] = json!("<|endoftext|>");
    file["added_tokens"] = json!([{"id": END, "content": "<|endoftext|>", "special": true}]);
    let other = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), CONTEXT).unwrap();
    for prompt in ["a cat <|endoftext|> a dog", "猫 & кошка, it's 1984"] {
        assert_eq!(other.encode(prompt), TOKENIZER.encode(prompt));
    }
}

#[test]
fn files_that_are_not_clips_are_refused() {
    let refusal = |change: &dyn Fn(&mut Value)| {
        let mut file: Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
        change(&mut file["model"]);
        let TextError(message) = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), CONTEXT).unwrap_err();
        message
    };
    let set = |key: &'static str, value: Value| refusal(&move |model| model[key] = value.clone());
    assert!(set("type", json!("Unigram")).contains("Unigram"));
    assert!(set("end_of_word_suffix", json!(null)).contains("end_of_word_suffix"));
    assert!(set("continuing_subword_prefix", json!("##")).contains("continuing_subword_prefix"));
    assert!(set("merges", json!(["cat"])).contains("not a pair"));
    assert!(set("merges", json!(["<end_of_text> <end_of_text>"])).contains("vocabulary lacks"));
    assert!(set("vocab", json!({})).contains("lacks"));

    let vocab = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        refusal(&|model| change(model["vocab"].as_object_mut().unwrap()))
    };
    assert!(vocab(&|vocab| drop(vocab.insert("not a word".into(), json!(49408)))).contains("must be the highest"));
    assert!(vocab(&|vocab| drop(vocab.insert("not a word".into(), json!(7)))).contains("taken twice"));
    assert!(vocab(&|vocab| drop(vocab.insert("not a word".into(), json!(60000)))).contains("beyond"));
    assert!(vocab(&|vocab| rename(vocab, "<start_of_text>", "x</y>")).contains("control tokens"));
    assert!(vocab(&|vocab| rename(vocab, "Ā</w>", "x</y>")).contains("byte symbol"));

    for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xfe", &TOKENIZER_JSON[..1000]] {
        let TextError(message) = Tokenizer::from_json(bytes, CONTEXT).unwrap_err();
        assert!(message.starts_with("not a tokenizer file"), "{message}");
    }
    assert!(Tokenizer::from_json(TOKENIZER_JSON, 1).unwrap_err().0.contains("context length 1"));
}

fn rename(vocab: &mut serde_json::Map<String, Value>, from: &str, to: &str) {
    let id = vocab.remove(from).unwrap();
    vocab.insert(to.to_owned(), id);
}

/// Any string, and strings of the pieces that the cleaning looks for.
fn prompts() -> impl Strategy<Value = String> {
    let pieces = [
        "&",
        "&amp;",
        "&#",
        "&#x80;",
        "&lt;",
        ";",
        "<",
        "Ã",
        "©",
        "â€œ",
        "ð",
        "í",
        "\u{a0}",
        "½",
        "À",
        "\u{80}",
        "\u{9d}",
        "\u{1b}[",
        "1m",
        "\r",
        "\n",
        "\u{2028}",
        "\u{301}",
        "ﬃ",
        "Ａ",
        "ｶﾞ",
        "Σ",
        "İ",
        "'s",
        "’",
        "\u{fffd}",
        "?",
        " ",
        "\0",
        "end_of_text",
        ">",
        "a",
        "9",
        "猫",
        "😀",
    ];
    let piece =
        prop_oneof![3 => proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => any::<String>()];
    prop_oneof![any::<String>(), proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn ids_have_clips_shape(prompt in prompts()) {
        let TokenIds { ids, truncated } = TOKENIZER.encode(&prompt);
        prop_assert!((2..=CONTEXT).contains(&ids.len()));
        prop_assert_eq!((ids[0], ids[ids.len() - 1]), (START, END));
        prop_assert!(ids[1..ids.len() - 1].iter().all(|id| *id < START));
        let full = ROOMY.encode(&prompt);
        prop_assert!(!full.truncated);
        prop_assert_eq!(truncated, full.ids.len() > CONTEXT);
        prop_assert_eq!(&ids[..ids.len() - 1], &full.ids[..ids.len() - 1]);
    }

    #[test]
    fn cleaned_text_has_single_spaces_and_no_controls(prompt in prompts()) {
        let text = clean(&prompt);
        prop_assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), text.as_str());
        prop_assert_eq!(text.to_lowercase(), text);
    }

    /// On words and plain punctuation cleaning again changes nothing (it may elsewhere: "&amp;amp;lt;" three times).
    #[test]
    fn cleaning_plain_text_twice_changes_nothing(prompt in "[a-zA-Z0-9 ,.!?'\"()\\[\\]:_猫àéñßжשم-]{0,80}") {
        let once = clean(&prompt);
        prop_assert_eq!(clean(&once), once);
    }

    /// Words come apart at white space: two prompts side by side are the ids of one and then of the other.
    #[test]
    fn ids_of_words_do_not_depend_on_their_neighbours(left in "[a-z0-9,.!']{0,12}", right in "[a-z0-9,.!']{0,12}") {
        let inner = |prompt: &str| { let ids = ROOMY.encode(prompt).ids; ids[1..ids.len() - 1].to_vec() };
        prop_assert_eq!(inner(&format!("{left} {right}")), [inner(&left), inner(&right)].concat());
    }
}
