// How the shims tell what went wrong: nullptr, or a text for pcqa_free. No exception leaves them.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

template <typename Body>
char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception that is none of the standard library's");
  }
}
