import app.cli.bench


def test_the_benchmark_takes_its_own_arguments_from_any_directory(run, tmp_path, monkeypatch):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__main__.py").write_text("raise SystemExit('another benchmark')")
    monkeypatch.chdir(tmp_path)
    done = run("bench", "--soak-seconds", "x", "soak")
    assert done.status == 2
    assert "--soak-seconds" in done.errors


def test_without_a_clone_it_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(app.cli.bench, "CLONE", tmp_path)
    done = run("bench")
    assert (done.status, done.errors) == (1, "Error: An installed package has no benchmark: run this from a clone.\n")
