/* The router: templates, methods, and what a caller is told. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "services/service.h"

static const aiq_route routes[] = {
    {AIQ_METHOD_GET, "/v1/models", PERMIT_READ, NULL, ""},
    {AIQ_METHOD_GET, "/v1/models/{id...}", PERMIT_READ, NULL, ""},
    {AIQ_METHOD_POST, "/v1/chat/completions", PERMIT_EXECUTE, NULL, ""},
    {AIQ_METHOD_GET, "/runs/{run}/steps/{step}", PERMIT_READ, NULL, ""},
    {AIQ_METHOD_DELETE, "/runs/{run}/steps/{step}", PERMIT_WRITE, NULL, ""},
};
static const aiq_service service = {"test", routes, sizeof(routes) / sizeof(routes[0]), NULL,
                                    NULL};
static const aiq_route any[] = {{0, "*", PERMIT_NONE, NULL, ""}};
static const aiq_service catch_all = {"any", any, 1, NULL, NULL};

static int find_as(const char *role, const aiq_service *s, aiq_method method, const char *uri,
                   aiq_job *job, aiq_err *err)
{
    const aiq_route *route;

    memset(job, 0, sizeof(*job));
    memset(err, 0, sizeof(*err));
    job->method = method;
    job->role = (aiq_str){role, strlen(role)};
    job->uri = (aiq_str){uri, strlen(uri)};
    route = service_route(s, job, err);
    return route == NULL ? -(int)err->status : (int)(route - s->routes);
}

static int find(const aiq_service *s, aiq_method method, const char *uri, aiq_job *job,
                aiq_err *err)
{
    return find_as("admin", s, method, uri, job, err);
}

static void matches_whole_paths(void **state)
{
    aiq_job job;
    aiq_err err;

    (void)state;
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/v1/models", &job, &err), 0);
    assert_int_equal(find(&service, AIQ_METHOD_POST, "/v1/chat/completions", &job, &err), 2);
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/v1/model", &job, &err), -404);
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/v1/modelsx", &job, &err), -404);
    assert_int_equal(find(&service, AIQ_METHOD_GET, "", &job, &err), -404);
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/v1/models/", &job, &err), -404);
}

static void fills_path_arguments(void **state)
{
    aiq_job job;
    aiq_err err;

    (void)state;
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/v1/models/org/model-7", &job, &err), 1);
    assert_true(aiq_str_is(job.path_args[0], "org/model-7"));
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/runs/a/steps/b", &job, &err), 3);
    assert_true(aiq_str_is(job.path_args[0], "a"));
    assert_true(aiq_str_is(job.path_args[1], "b"));
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/runs//steps/b", &job, &err), -404);
    assert_int_equal(find(&service, AIQ_METHOD_GET, "/runs/a/b/steps/c", &job, &err), -404);
}

static void tells_which_methods_a_path_takes(void **state)
{
    aiq_job job;
    aiq_err err;

    (void)state;
    assert_int_equal(find(&service, AIQ_METHOD_POST, "/runs/a/steps/b", &job, &err), -405);
    assert_non_null(strstr(err.message, "GET, DELETE"));
    assert_int_equal(find(&service, AIQ_METHOD_OTHER, "/v1/models", &job, &err), -405);
    assert_int_equal(find(&service, AIQ_METHOD_HEAD, "/v1/models", &job, &err), 0);
}

static void one_route_may_take_everything(void **state)
{
    aiq_job job;
    aiq_err err;

    (void)state;
    assert_int_equal(find(&catch_all, AIQ_METHOD_OTHER, "/x/y", &job, &err), 0);
    assert_int_equal(find(&catch_all, AIQ_METHOD_GET, "", &job, &err), 0);
}

static void a_role_permits_so_much(void **state)
{
    static const struct {
        const char *role;
        bool none, read, write, execute, admin;
    } cases[] = {
        {"admin", true, true, true, true, true},
        {"developer", true, true, true, true, false},
        {"user", true, true, false, true, false},
        {"viewer", true, true, false, false, false},
        {"", true, false, false, false, false},
        {"Admin", true, false, false, false, false},
        {"administrator", true, false, false, false, false},
    };
    aiq_job job;
    aiq_err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        aiq_str role = {cases[i].role, strlen(cases[i].role)};
        assert_int_equal(service_permits(role, PERMIT_NONE), cases[i].none);
        assert_int_equal(service_permits(role, PERMIT_READ), cases[i].read);
        assert_int_equal(service_permits(role, PERMIT_WRITE), cases[i].write);
        assert_int_equal(service_permits(role, PERMIT_EXECUTE), cases[i].execute);
        assert_int_equal(service_permits(role, PERMIT_ADMIN), cases[i].admin);
    }
    assert_int_equal(
        find_as("viewer", &service, AIQ_METHOD_POST, "/v1/chat/completions", &job, &err), -403);
    assert_string_equal(err.code, "permission_denied");
    assert_int_equal(find_as("viewer", &service, AIQ_METHOD_GET, "/v1/models", &job, &err), 0);
    assert_int_equal(
        find_as("user", &service, AIQ_METHOD_DELETE, "/runs/a/steps/b", &job, &err), -403);
}

static void arguments_come_one_by_one_and_decoded(void **state)
{
    static const struct {
        const char *args, *want; /* name=value; of each */
    } cases[] = {
        {"", ""},
        {"&&", ""},
        {"a", "a=;"},
        {"a=", "a=;"},
        {"=b", "=b;"},
        {"a=b&c=d", "a=b;c=d;"},
        {"&a=b&&c&", "a=b;c=;"},
        {"a=b=c", "a=b=c;"},
        {"ids=x%2Cy%2c", "ids=x,y,;"},
        {"a=%41%4", "a=A%4;"},
        {"a=%&b=%zz&c=%4", "a=%;b=%zz;c=%4;"},
        {"a=%&b", "a=%;b=;"},
    };
    aiq_pool *pool = aiq_pool_new();

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        aiq_str args = {cases[i].args, strlen(cases[i].args)}, name, value;
        aiq_buf got = {0};
        while (service_arg(pool, &args, &name, &value)) {
            aiq_buf_printf(&got, "%.*s=%.*s;", (int)name.len, name.data, (int)value.len,
                           value.data);
        }
        assert_int_equal(got.len, strlen(cases[i].want));
        assert_memory_equal(got.len ? got.data : (const uint8_t *)"", cases[i].want, got.len);
        aiq_buf_free(&got);
    }
    aiq_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arguments_come_one_by_one_and_decoded),
        cmocka_unit_test(matches_whole_paths),
        cmocka_unit_test(fills_path_arguments),
        cmocka_unit_test(tells_which_methods_a_path_takes),
        cmocka_unit_test(one_route_may_take_everything),
        cmocka_unit_test(a_role_permits_so_much),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
