"""A cluster that speaks Kafka's protocol and keeps records in memory: the one that librdkafka has for its own tests.

Run as a program, so that it can be stopped and killed. Prints its servers, then does what its standard input says:

    create TOPIC PARTITIONS · error TOPIC CODE · fail API CODE COUNT
"""

import ctypes
import sys
from pathlib import Path

import confluent_kafka

PRODUCER = 0
BROKERS = 3
LIBRARY = next((Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka*"))


def main() -> None:
    library = ctypes.CDLL(str(LIBRARY))
    for name in ("rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    error = ctypes.create_string_buffer(512)
    client = ctypes.c_void_p(library.rd_kafka_new(PRODUCER, None, error, len(error)))
    cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(client, BROKERS))
    say(library.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    for line in sys.stdin:
        match line.split():
            case "create", topic, partitions:
                library.rd_kafka_mock_topic_create(cluster, topic.encode(), int(partitions), BROKERS)
            case "error", topic, code:
                library.rd_kafka_mock_topic_set_error(cluster, topic.encode(), int(code))
            case "fail", api, code, count:
                codes = (ctypes.c_int * int(count))(*[int(code)] * int(count))
                library.rd_kafka_mock_push_request_errors_array(
                    cluster, ctypes.c_int16(int(api)), ctypes.c_size_t(int(count)), codes
                )
        say("done")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
