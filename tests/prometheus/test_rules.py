"""The alert rules, evaluated by promtool: each fires when it should, and none while all is well."""

import json
import subprocess

import pytest

from tests.pages import PROJECT
from tests.test_runbooks import DASHBOARD, RULES

FOLDER = PROJECT / "deploy" / "prometheus"
START = 0  # promtool's clock begins at the epoch
DAY = 86_400

WELL = {
    'up{job="priohook",instance="one"}': "1x2000",
    'priohook_database_up{instance="one"}': "1x2000",
    'priohook_schema_current{instance="one"}': "1x2000",
    'priohook_http_requests_total{endpoint="webhook",status="200"}': "0+60x2000",
    'priohook_http_requests_total{endpoint="webhook",status="503"}': "0x2000",
    'priohook_refused_requests_total{endpoint="webhook",status="401",reason="wrong_secret"}': "0x2000",
    'priohook_refused_requests_total{endpoint="webhook",status="401",reason="missing"}': "0+1x2000",
    'priohook_received_events_total{type="ORDER_CREATE",outcome="accepted"}': "0+60x2000",
    'priohook_acknowledgement_duration_seconds_bucket{le="0.025"}': "0+60x2000",
    'priohook_acknowledgement_duration_seconds_bucket{le="+Inf"}': "0+60x2000",
    "priohook_events_last_hour": "3600x2000",
    "priohook_events_same_hour_last_week": "3600x2000",
    'priohook_spool_oldest_seconds{instance="one"}': "0x2000",
    "priohook_fetches_refused": "0x2000",
    'priohook_processes{kind="receiver",state="running"}': "1x2000",
    'priohook_processes{kind="worker",state="running"}': "1x2000",
    'priohook_processes{kind="worker",state="silent"}': "0x2000",
    "priohook_undispatched_events": "3x2000",
    "priohook_undispatched_oldest_seconds": "1x2000",
    'priohook_destination_state{destination="erp",state="ready"}': "1x2000",
    'priohook_destination_state{destination="erp",state="open"}': "0x2000",
    'priohook_destination_state{destination="erp",state="paused"}': "0x2000",
    'priohook_destination_state{destination="erp",state="unusable"}': "0x2000",
    'priohook_deliveries{destination="erp",state="due"}': "5x2000",
    'priohook_deliveries{destination="erp",state="dead"}': "0x2000",
    'priohook_oldest_due_seconds{destination="erp"}': "2x2000",
    'priohook_held_back_references{destination="erp"}': "0x2000",
    'priohook_disk_free_bytes{place="database",instance="one"}': "60e9x2000",
    'priohook_log_lines_dropped_total{instance="one"}': "0x2000",
    "priohook_last_quarantined_timestamp_seconds": f"-{2 * DAY}x2000",
    "priohook_reconciliation_timestamp_seconds": "0x2000",
    "priohook_reconciliation_missing_orders": "0x2000",
    "priohook_reconciliation_interrupted": "0x2000",
    'priohook_certificate_expiry_timestamp_seconds{destination="erp"}': f"{90 * DAY}x2000",
    'priohook_credential_expiry_timestamp_seconds{client="prioticket"}': f"{29 * DAY}x2000",
}

SILENT = {"priohook_events_last_hour": "0x2000"}
WRONG = {
    'priohook_refused_requests_total{endpoint="webhook",status="401",reason="wrong_secret"}': "0+1x2000",
    'priohook_received_events_total{type="ORDER_CREATE",outcome="accepted"}': "60x2000",
}

FIRES = {
    "PriohookNoReceiver": {'priohook_processes{kind="receiver",state="running"}': "0x2000"},
    "PriohookNotAcknowledging": {'priohook_http_requests_total{endpoint="webhook",status="503"}': "0x50 1x2000"},
    "PriohookSenderRefused": WRONG,
    "PriohookSilence": SILENT,
    "PriohookAcknowledgesSlowly": {
        'priohook_acknowledgement_duration_seconds_bucket{le="0.025"}': "0+50x2000",
        'priohook_acknowledgement_duration_seconds_bucket{le="2.5"}': "0+60x2000",
    },
    "PriohookSpoolWaits": {'priohook_spool_oldest_seconds{instance="one"}': "0+60x2000"},
    "PriohookQuarantined": {"priohook_last_quarantined_timestamp_seconds": "600x2000"},
    "PriohookMissedWebhooks": {"priohook_reconciliation_missing_orders": "2x2000"},
    "PriohookReconcileInterrupted": {"priohook_reconciliation_interrupted": "1x2000"},
    "PriohookFetchesRefused": {"priohook_fetches_refused": "1x2000"},
    "PriohookStrangersRefused": {
        'priohook_refused_requests_total{endpoint="webhook",status="401",reason="missing"}': "0+10x2000"
    },
    "PriohookNoWorker": {'priohook_processes{kind="worker",state="running"}': "0x2000"},
    "PriohookNotDispatched": {"priohook_undispatched_oldest_seconds": "0+60x2000"},
    "PriohookDestinationDown": {'priohook_destination_state{destination="erp",state="open"}': "1x2000"},
    "PriohookDestinationUnusable": {'priohook_destination_state{destination="erp",state="unusable"}': "1x2000"},
    "PriohookDeliveriesLate": {'priohook_oldest_due_seconds{destination="erp"}': "0+60x2000"},
    "PriohookDestinationPaused": {'priohook_destination_state{destination="erp",state="paused"}': "1x2000"},
    "PriohookHeldBack": {'priohook_held_back_references{destination="erp"}': "8x2000"},
    "PriohookDead": {'priohook_deliveries{destination="erp",state="dead"}': "1x2000"},
    "PriohookCertificateExpires": {
        'priohook_certificate_expiry_timestamp_seconds{destination="erp"}': f"{13 * DAY}x2000"
    },
    "PriohookAway": {'up{job="priohook",instance="one"}': "0x2000"},
    "PriohookDatabaseAway": {'priohook_database_up{instance="one"}': "0x2000"},
    "PriohookSchemaBehind": {'priohook_schema_current{instance="one"}': "0x2000"},
    "PriohookDiskFull": {'priohook_disk_free_bytes{place="database",instance="one"}': "60e9-1e8x500"},
    "PriohookProcessSilent": {'priohook_processes{kind="worker",state="silent"}': "1x2000"},
    "PriohookCredentialExpires": {
        'priohook_credential_expiry_timestamp_seconds{client="prioticket"}': f"{13 * DAY}x2000"
    },
    "PriohookLogLinesDropped": {'priohook_log_lines_dropped_total{instance="one"}': "0x50 3x2000"},
}

WELL_TOO = {
    "a receiver that is being restarted": {
        'priohook_processes{kind="receiver",state="running"}': "1x58 0 1x2000",
    },
    "a destination that makes dispatch wait": {
        "priohook_undispatched_oldest_seconds": "300x2000",
        'priohook_deliveries{destination="erp",state="due"}': "100x2000",
    },
    "an old secret that one of several senders still has": {
        'priohook_refused_requests_total{endpoint="webhook",status="401",reason="wrong_secret"}': "0+1x2000"
    },
    "a night in which nothing is sold": SILENT | {"priohook_events_same_hour_last_week": "0x2000"},
    "a receiver without destinations and workers": {
        'priohook_processes{kind="worker",state="running"}': "0x2000",
        "priohook_undispatched_events": "0x2000",
        'priohook_destination_state{destination="erp",state="ready"}': "stale",
        'priohook_destination_state{destination="erp",state="open"}': "stale",
        'priohook_destination_state{destination="erp",state="paused"}': "stale",
        'priohook_destination_state{destination="erp",state="unusable"}': "stale",
    },
    "what a paused destination has not had": {
        'priohook_oldest_due_seconds{destination="erp"}': "5000x2000",
        'priohook_destination_state{destination="erp",state="ready"}': "0x2000",
    },
}


def firing(changes, tmp_path, *, at="59m"):
    """Whether promtool finds that exactly these alerts fire: gives a function of their names."""
    series = [{"series": name, "values": values} for name, values in (WELL | changes).items()]

    def checked(*names):
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
        test = {
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": at,
                    "exp_samples": samples,
                }
            ],
        }
        rules = str(FOLDER / "priohook.rules.yml")
        path = tmp_path / "rules.test.yml"
        path.write_text(json.dumps({"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]}))
        done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)  # noqa: S607
        assert done.returncode == 0, done.stdout + done.stderr

    return checked


@pytest.mark.parametrize("name", FIRES)
def test_an_alert_fires_and_no_other(name, tmp_path):
    firing(FIRES[name], tmp_path)(name)


def test_it_is_told_that_no_process_can_be_found_any_more(tmp_path):
    firing({'up{job="priohook",instance="one"}': "1x5 stale"}, tmp_path)("PriohookAway")


def test_no_alert_fires_while_all_is_well(tmp_path):
    firing({}, tmp_path)()


@pytest.mark.parametrize("case", WELL_TOO)
def test_no_alert_fires_because_of(case, tmp_path):
    firing(WELL_TOO[case], tmp_path)()


def test_each_rule_is_tried():
    assert set(FIRES) == {rule["alert"] for rule in RULES}


def test_each_expression_of_the_dashboard_can_be_read(tmp_path):
    asked = [each["expr"] for panel in DASHBOARD["panels"] for each in panel.get("targets", ())]
    asked += [each["expr"] for each in DASHBOARD["annotations"]["list"]]
    plain = [each.replace("$__rate_interval", "5m") for each in asked]
    rules = [{"record": f"asked:{number}", "expr": each} for number, each in enumerate(plain)]
    path = tmp_path / "dashboard.rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(asked)} rules found" in done.stdout


def test_the_example_is_a_valid_configuration():
    subprocess.run(["promtool", "check", "config", str(FOLDER / "prometheus.yml")], check=True)  # noqa: S607
