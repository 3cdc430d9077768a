//! Figures against SciPy's, their intervals, and what is not defined.

use pcqa::train::statistics::{
    Figure, GeneratorFigures, Judged, Logistic, Metrics, by_generator, krcc, plcc, rmse, srcc,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
    srcc: f64,
    plcc: f64,
    krcc: f64,
    rmse: f64,
    logistic: Option<[f64; 4]>,
    plcc_fitted: Option<f64>,
    rmse_fitted: Option<f64>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../golden/train/statistics.json")).unwrap()
}

/// Items of prompts `p0`, `p1`, … in turn.
fn judged(predicted: &[f64], mos: &[f64], prompts: usize) -> Vec<Judged> {
    let item = |(i, (&predicted, &mos)): (usize, (&f64, &f64))| Judged {
        mos,
        predicted,
        prompt: format!("p{}", i % prompts),
        generator: None,
        group: None,
        name: format!("{i}.png"),
        path: format!("{i}.png").into(),
    };
    predicted.iter().zip(mos).enumerate().map(item).collect()
}

fn close(found: Option<f64>, expected: f64, tolerance: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() <= tolerance * expected.abs().max(1.0))
}

fn width(figure: Option<Figure>) -> f64 {
    let [low, high] = figure.unwrap().interval.unwrap();
    high - low
}

#[test]
fn correlations_are_scipys() {
    for case in cases() {
        let (x, y) = (&case.x, &case.y);
        assert!(close(srcc(x, y), case.srcc, 1e-12), "{}: srcc {:?}", case.name, srcc(x, y));
        assert!(close(plcc(x, y), case.plcc, 1e-12), "{}: plcc {:?}", case.name, plcc(x, y));
        assert!(close(krcc(x, y), case.krcc, 1e-12), "{}: krcc {:?}", case.name, krcc(x, y));
        assert!(close(rmse(x, y), case.rmse, 1e-12), "{}: rmse {:?}", case.name, rmse(x, y));
    }
}

#[test]
fn curves_are_scipys() {
    let fitted = cases().into_iter().filter_map(|case| Some((case.logistic?, case)));
    for ([high, low, centre, width], case) in fitted {
        let curve = Logistic::fit(&case.x, &case.y).unwrap();
        let pairs = [(curve.high, high), (curve.low, low), (curve.centre, centre), (curve.width, width)];
        for (found, expected) in pairs {
            assert!(close(Some(found), expected, 1e-5), "{}: {curve:?}, expected {expected}", case.name);
        }
        let metrics = Metrics::without_intervals(&judged(&case.x, &case.y, 10));
        let value = |figure: Option<Figure>| figure.map(|figure| figure.value);
        assert!(close(value(metrics.plcc_fitted), case.plcc_fitted.unwrap(), 1e-9), "{}", case.name);
        assert!(close(value(metrics.rmse_fitted), case.rmse_fitted.unwrap(), 1e-9), "{}", case.name);
    }
}

/// Whatever the data, the mean of the opinions is among the curves (with equal limits), and every line is near one.
#[test]
fn a_curve_is_never_worse_than_a_line() {
    for case in cases().iter().filter(|case| case.x.len() > 5) {
        let metrics = Metrics::without_intervals(&judged(&case.x, &case.y, 10));
        let deviation = rmse(&case.y, &vec![case.y.iter().sum::<f64>() / case.y.len() as f64; case.y.len()]).unwrap();
        let of_line = deviation * (1.0 - case.plcc * case.plcc).sqrt();
        let found = metrics.rmse_fitted.unwrap().value;
        assert!(found <= 1.002 * of_line, "{}: {found}, of a line {of_line}", case.name);
    }
}

#[test]
fn what_is_not_defined_is_none() {
    let none = [srcc, plcc, krcc];
    for (x, y) in [(&[1.0][..], &[2.0][..]), (&[], &[]), (&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]), (&[1.0, 2.0], &[1.0])] {
        assert!(none.iter().all(|figure| figure(x, y).is_none() && figure(y, x).is_none()), "{x:?} {y:?}");
        assert_eq!(Logistic::fit(x, y), None);
    }
    for bad in [f64::NAN, f64::INFINITY] {
        let (x, y) = ([1.0, 2.0, bad, 4.0], [1.0, 2.0, 3.0, 4.0]);
        assert!([srcc, plcc, krcc, rmse].iter().all(|figure| figure(&x, &y).is_none()));
        let metrics = Metrics::new(&judged(&x, &y, 4));
        assert_eq!((metrics.items, metrics.srcc, metrics.rmse), (4, None, None));
    }
    let constant = Metrics::new(&judged(&[3.0; 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 1.0], 3));
    assert_eq!((constant.srcc, constant.plcc_fitted, constant.main), (None, None, None));
    assert!(constant.rmse.unwrap().interval.is_some());
}

/// Both zeros are one value.
#[test]
fn zeros_are_tied_whatever_their_sign() {
    let y = [1.0, 2.0, 3.0];
    for figure in [srcc, krcc] {
        assert_eq!(figure(&[0.0, -0.0, 1.0], &y), figure(&[0.0, 0.0, 1.0], &y));
    }
}

#[test]
fn an_interval_holds_the_figure_and_is_the_same_every_time() {
    let case = &cases()[0];
    let items = judged(&case.x, &case.y, 200);
    let metrics = Metrics::new(&items);
    assert_eq!(metrics, Metrics::new(&items));
    let figures = [metrics.srcc, metrics.plcc, metrics.plcc_fitted, metrics.krcc, metrics.rmse, metrics.main];
    for figure in figures {
        let Figure { value, interval } = figure.unwrap();
        let [low, high] = interval.unwrap();
        assert!(low < value && value < high, "{value} is not in {low}..{high}");
    }
    // Fisher's interval for r = 0.904 of 200 pairs is 0.875 to 0.927.
    let [low, high] = metrics.plcc.unwrap().interval.unwrap();
    assert!((low - 0.875).abs() < 0.015 && (high - 0.927).abs() < 0.015, "{low}..{high}");
}

/// Four copies of every item say nothing new when they share its prompt; taken for items of their own they would make
/// the interval half as wide.
#[test]
fn intervals_resample_prompts_not_items() {
    let case = &cases()[4];
    let (x, y) = (case.x.repeat(4), case.y.repeat(4));
    let alone = width(Metrics::new(&judged(&case.x, &case.y, 200)).plcc);
    let copies = width(Metrics::new(&judged(&x, &y, 200)).plcc);
    let apart = width(Metrics::new(&judged(&x, &y, 800)).plcc);
    assert!((copies / alone - 1.0).abs() < 1e-6, "{copies} of copies, {alone} alone");
    assert!((alone / apart - 2.0).abs() < 0.2, "{apart} of items of their own, {alone} alone");
    let metrics = Metrics::new(&judged(&case.x, &case.y, 1));
    assert_eq!((metrics.prompts, metrics.srcc.unwrap().interval), (1, None));
}

/// The 95 % interval of a correlation holds the truth in about 38 of 40 samples.
#[test]
fn intervals_cover_the_truth() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    let covered = (0..40).filter(|_| {
        let x: Vec<f64> = (0..60).map(|_| normal()).collect();
        let y: Vec<f64> = x.iter().map(|x| 0.6 * x + 0.8 * normal()).collect();
        let [low, high] = Metrics::new(&judged(&x, &y, 60)).plcc.unwrap().interval.unwrap();
        low < 0.6 && 0.6 < high
    });
    let covered = covered.count();
    assert!((33..=40).contains(&covered), "{covered} of 40");
}

/// A judge who only knows generators is good overall and knows nothing within one.
#[test]
fn within_generators_nothing_is_gained_by_telling_them_apart() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut noise = || rng.random::<f64>() - 0.5;
    let (mut predicted, mut mos) = (Vec::new(), Vec::new());
    for i in 0..300 {
        predicted.push(f64::from(i % 3) + 0.01 * noise());
        mos.push(f64::from(i % 3) + 0.5 * noise());
    }
    let mut items = judged(&predicted, &mos, 300);
    assert_eq!(Metrics::without_intervals(&items).srcc_within_generator, None);
    assert_eq!(by_generator(&items), []);
    for (i, item) in items.iter_mut().enumerate() {
        item.generator = Some(["a", "b", "c"][i % 3].to_owned());
    }
    let metrics = Metrics::new(&items);
    assert!(metrics.srcc.unwrap().value > 0.85);
    let within = metrics.srcc_within_generator.unwrap();
    assert!(within.value.abs() < 0.15 && within.interval.is_some(), "{within:?}");

    let figures = by_generator(&items);
    assert_eq!(
        figures.iter().map(|figures| (figures.generator.as_str(), figures.items)).collect::<Vec<_>>(),
        [("a", 100), ("b", 100), ("c", 100)]
    );
    let mean = figures.iter().map(|figures| figures.srcc.unwrap()).sum::<f64>() / 3.0;
    assert!((mean - within.value).abs() < 1e-12);
}

#[test]
fn gaps_are_explained_where_there_are_any() {
    let mos: Vec<f64> = (0..20).map(f64::from).collect();
    let mut all = judged(&mos, &mos, 10);
    let metrics = Metrics::without_intervals(&all);
    let said = Metrics::gaps([&metrics]).unwrap();
    assert!(said.contains("at least 5 items"), "{said}");
    (0..).zip(&mut all).for_each(|(i, item)| item.generator = Some((i % 2).to_string()));
    let whole = Metrics::without_intervals(&all);
    assert_eq!(Metrics::gaps([&whole]), None);
    assert!(Metrics::gaps([&whole, &metrics]).is_some());
    assert_eq!(GeneratorFigures::gaps(&by_generator(&all)), None);
    assert!(GeneratorFigures::gaps(&by_generator(&all[..3])).is_some());
}

#[test]
fn figures_are_written_and_read_as_json() {
    let case = &cases()[1];
    let metrics = Metrics::new(&judged(&case.x, &case.y, 20));
    let text = serde_json::to_string(&metrics).unwrap();
    let read: Metrics = serde_json::from_str(&text).unwrap();
    assert!(close(Some(read.srcc.unwrap().value), metrics.srcc.unwrap().value, 1e-12));
    assert!((width(read.srcc) - width(metrics.srcc)).abs() < 1e-12);
    let none = serde_json::to_value(Metrics::new(&[])).unwrap();
    assert!(none["srcc"].is_null() && none["items"] == 0);
}
