from app.server.memory import LEFT, MANY, Burst, give_back


def test_a_burst_is_over_once_when_few_of_its_connections_are_left():
    burst = Burst()
    few = 2 * MANY // LEFT
    connections = (0, MANY, 2 * MANY, MANY, few + 1, few, few + 1, few, 3, 0, 0)
    assert [burst.is_over(each) for each in connections] == [False] * 8 + [True, False, False]
    assert [burst.is_over(each) for each in (MANY, 0, 0)] == [False, False, True]


def test_a_few_connections_are_no_burst():
    burst = Burst()
    assert not any(burst.is_over(each) for each in (MANY - 1, 0, 0))


def test_memory_can_be_given_back_at_any_time():
    give_back()
    give_back()
