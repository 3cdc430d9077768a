use nalgebra::{DMatrix, DVector};
use rand::Rng;

use super::*;
use crate::train::statistics::srcc;

const WORDS: [&str; 8] = ["fox", "castle", "neon", "portrait", "snow", "glass", "ramen", "sketch"];

/// 600 items of 200 prompts by three generators; `mos` takes the words' numbers, the prompt's, the generator's.
fn items(mos: impl Fn(&[usize], usize, usize) -> f64) -> Vec<Judged> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let prompts: Vec<[usize; 3]> = (0..200).map(|_| [(); 3].map(|()| rng.random_range(0..WORDS.len()))).collect();
    let item = |i: usize| {
        let words = &prompts[i / 3];
        Judged {
            mos: mos(words, i / 3, i % 3) + 0.2 * rng.random::<f64>(),
            predicted: f64::NAN,
            prompt: format!("{}, {} number{}", words.map(|word| WORDS[word]).join(" "), i / 3, i / 3),
            generator: Some(["a", "b", "c"][i % 3].to_owned()),
            group: None,
            name: i.to_string(),
            path: i.to_string().into(),
        }
    };
    (0..600).map(item).collect()
}

fn srccs(items: &[Judged]) -> Vec<(&'static str, f64)> {
    let mos: Vec<f64> = items.iter().map(|item| item.mos).collect();
    predictions(items).into_iter().map(|(name, predicted)| (name, srcc(&predicted, &mos).unwrap_or(0.0))).collect()
}

#[test]
fn each_floor_finds_what_it_may_know() {
    let items = items(|words, _, generator| words.iter().sum::<usize>() as f64 / 8.0 + generator as f64);
    let [generator, prompt, both] = srccs(&items)[..] else { panic!("three floors") };
    assert_eq!([generator.0, prompt.0, both.0], [GENERATOR, PROMPT, BOTH]);
    assert!(generator.1 > 0.6 && prompt.1 > 0.4, "{generator:?} {prompt:?}");
    assert!(both.1 > 0.95, "{both:?}");
    let metrics = floors(&items);
    assert!((metrics[2].1.srcc.unwrap().value - both.1).abs() < 1e-12);
    assert!(metrics[2].1.srcc_within_generator.unwrap().value > 0.9);
    assert_eq!(metrics[0].1.srcc_within_generator, None);
}

/// Every prompt has a word of its own and an opinion of its own: who had seen it would know the opinion.
#[test]
fn no_prompt_is_predicted_by_who_has_seen_it() {
    let items = items(|_, prompt, _| ((prompt * 7919) % 200) as f64 / 20.0);
    for (name, srcc) in srccs(&items) {
        assert!(srcc < 0.2, "{name}: {srcc}");
    }
}

#[test]
fn what_is_not_known_has_no_floor() {
    let mut items = items(|words, _, _| words[0] as f64);
    items.iter_mut().for_each(|item| item.generator = None);
    assert_eq!(srccs(&items).iter().map(|floor| floor.0).collect::<Vec<_>>(), [PROMPT]);
    items.iter_mut().for_each(|item| item.prompt = "the same".to_owned());
    assert_eq!(floors(&items), []);
    assert_eq!(floors(&[]), []);
}

#[test]
fn ridge_is_the_solution_of_its_equations() {
    let items = items(|words, _, generator| (words[0] * words[1]) as f64 + generator as f64);
    let features = Features::new(&items[..60], Knows { generator: true, prompt: true });
    let mos: Vec<f64> = items[..60].iter().map(|item| item.mos).collect();
    let model = Ridge::fit(&features, &(0..60).collect::<Vec<_>>(), &mos, 0.5);

    let mut x = DMatrix::<f64>::zeros(60, features.columns());
    (0..60).for_each(|i| features.row(i).iter().for_each(|&(column, value)| x[(i, column)] = value));
    let mean = mos.iter().sum::<f64>() / 60.0;
    let y = DVector::from_iterator(60, mos.iter().map(|mos| mos - mean));
    let left = x.transpose() * &x + 0.5 * DMatrix::<f64>::identity(features.columns(), features.columns());
    let weights = left.lu().solve(&(x.transpose() * y)).unwrap();
    for i in 0..60 {
        let expected = mean + (x.row(i) * &weights)[0];
        assert!((model.predict(features.row(i)) - expected).abs() < 1e-3, "{i}");
    }
}
