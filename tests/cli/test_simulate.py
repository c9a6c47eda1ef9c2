import pytest


def test_without_any_credentials_it_says_how_to_give_some(run):
    done = run("simulate")
    assert done.status == 2
    assert "--user" in done.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--serve", "8099"], "HOST:PORT"),
        (["--serve", "127.0.0.1:0"], "--api-client"),
        (["--lose", "0.1"], "--lose needs --serve"),
        (["--serve", "127.0.0.1:0", "http://127.0.0.1:9"], "URL cannot be used with --serve"),
        (["--serve", "127.0.0.1:0", "--retry"], "--retry cannot be used with --serve"),
        (["--serve", "127.0.0.1:0", "--api-client", "demo:x", "--fault", "/orders=666"], "with a KIND of"),
        (["--serve", "127.0.0.1:0", "--api-client", "demo:x", "--behave", "kind"], "NAME=VALUE"),
    ],
)
def test_serving_needs_an_address_and_credentials(run, arguments, said):
    done = run("simulate", *arguments)
    assert done.status == 2
    assert said in done.errors
