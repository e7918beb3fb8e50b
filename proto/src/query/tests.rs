use serde_json::json;

use super::*;

fn facts(json: serde_json::Value) -> Facts {
    Facts::of(&json)
}

fn accepts(query: &str, own: serde_json::Value, other: serde_json::Value) -> bool {
    Query::parse(query).expect(query).accepts(&facts(own), &facts(other))
}

fn refused(query: &str) -> (usize, String) {
    let error = Query::parse(query).expect_err(query);
    (error.position, error.message)
}

#[test]
fn it_means_what_it_says() {
    let full =
        r#"region = "eu" and abs(skill - self.skill) <= 200 and (version >= 3 or beta) and role in ["tank", "healer"]"#;
    let own = json!({"skill": 1_000});
    let fits = json!({"region": "eu", "skill": 1_200, "version": 2, "beta": true, "role": "healer"});
    assert!(accepts(full, own.clone(), fits.clone()));
    for (name, value) in
        [("region", json!("us")), ("skill", json!(1_201)), ("beta", json!(false)), ("role", json!("dps"))]
    {
        let mut other = fits.clone();
        other[name] = value;
        assert!(!accepts(full, own.clone(), other), "{name}");
    }
    let nobody = json!({});
    for (query, holds) in [
        ("1 + 2 * 3 = 7 and (1 + 2) * 3 = 9 and 7 / 2 = 3.5 and 1 - 2 - 3 = -4", true),
        ("min(2, 3) = 2 and max(2, -3) = 2 and abs(0 - 5) == 5", true),
        ("true or false and false", true),
        ("not true or true", true),
        ("not (true or true)", false),
        (r#""a" != "b" and "a" = "a""#, true),
        (r#""a" < "b""#, false),
        (r#""say \"a\\b\"" = "say \"a\\b\"""#, true),
        ("1 = \"1\"", false),
        ("3 in [1, -3, 3]", true),
        ("-3 in [1, -3]", true),
        ("1 in []", false),
        ("1 / 0 > 5", true),
        ("0 / 0 = 0 / 0", false),
    ] {
        assert_eq!(accepts(query, nobody.clone(), nobody.clone()), holds, "{query}");
    }
}

#[test]
fn what_is_missing_compares_to_nothing() {
    for (query, holds) in [
        ("skill = 3", false),
        ("skill != 3", false),
        ("not (skill = 3)", true),
        ("skill in [3]", false),
        ("self.skill <= 3", false),
        ("abs(skill - self.skill) >= 0", false),
        ("beta", false),
        ("nested = 1", false),
    ] {
        assert_eq!(accepts(query, json!({}), json!({"nested": {"a": 1}, "none": null})), holds, "{query}");
    }
}

#[test]
fn a_mistake_is_shown_where_it_is() {
    for (position, query) in [
        (0, ""),
        (9, "skill >= and beta"),
        (6, "skill ? 3"),
        (7, "beta = \"eu"),
        (9, r#"beta = "a\n""#),
        (6, "beta  beta"),
        (8, "version 3"),
        (0, "3"),
        (0, "skill + 1 and beta"),
        (9, "beta and skill * 2"),
        (4, "not 3"),
        (0, "sqrt(skill) = 2"),
        (5, "self.= 3"),
        (9, "skill in 3"),
        (10, "skill in [beta]"),
        (8, "(beta or"),
        (0, "1.2.3 = 1"),
        (0, "and"),
    ] {
        assert_eq!(refused(query).0, position, "{query}");
    }
    assert!(Query::parse("beta").is_ok(), "a truth value is a condition");
    assert!(refused("sqrt(skill) = 2").1.contains("no function `sqrt`"));
}

#[test]
fn length_depth_and_cost_are_bounded() {
    let long = format!("beta{}", " ".repeat(MAX_BYTES));
    assert!(refused(&long).1.contains("at most"));
    let deep = format!("{}beta{}", "(".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
    assert!(refused(&deep).1.contains("deep"));
    assert!(refused(&format!("{}beta", "not ".repeat(MAX_DEPTH + 1))).1.contains("deep"));
    assert!(refused(&format!("{}1 = 1", "-".repeat(MAX_DEPTH + 1))).1.contains("deep"));
    let wide = vec!["a"; MAX_NODES].join(" or ");
    assert!(refused(&wide).1.contains("names, values and operators"));
    assert!(Query::parse(&vec!["a"; MAX_NODES / 2].join(" or ")).is_ok());
    let list: Vec<String> = (0..MAX_NODES).map(|n| n.to_string()).collect();
    assert!(refused(&format!("a in [{}]", list.join(","))).1.contains("names, values and operators"));
}

#[test]
fn plain_demands_are_found() {
    let own = facts(json!({"skill": 100, "region": "eu"}));
    let query = Query::parse(
        r#"region = self.region and abs(self.skill - skill) <= 50 and 3 <= version and (a = "x" or b = "y") and not c = "z""#,
    )
    .expect("it is right");
    assert_eq!(
        query.demands(&own),
        [
            Demand::Text("region", "eu".into()),
            Demand::Range("skill", 50.0, 150.0),
            Demand::Range("version", 3.0, f64::INFINITY),
        ]
    );
    assert_eq!(query.demands(&Facts::default()).len(), 1, "what depends on a property one does not have");
}

#[test]
fn facts_are_what_is_plain_and_short() {
    let many: serde_json::Map<String, serde_json::Value> = (0..100).map(|n| (format!("p{n:03}"), json!(n))).collect();
    assert_eq!(Facts::of(&many.into()).iter().count(), 32);
    let facts = facts(json!({"n": 1, "t": "x", "b": true, "long": "x".repeat(300), "list": [1], "null": null}));
    assert_eq!(facts.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "n", "t"]);
    assert_eq!((facts.number("n"), facts.text("t"), facts.number("t")), (Some(1.0), Some("x"), None));
}
