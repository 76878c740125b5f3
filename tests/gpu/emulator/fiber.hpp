// Fibers: functions with stacks of their own, that are left and gone on with.
#pragma once

#include <memory>
#include <vector>

namespace emulator {

struct Fiber;
struct Stacks;

// Goes on with a fiber until it suspends itself or its function ends.
void resume(Fiber& fiber);
// Goes back to whoever resumed this fiber, which must be the one that runs.
void suspend(Fiber& fiber);

// Fibers that wait for work. A stack is used again and again, so a function that never waits costs little more than a
// call.
class FiberPool {
  public:
    FiberPool();
    ~FiberPool();
    // A fiber that will run `function` from its begin. All fibers of a pool run the same functions in turn, so a fiber
    // whose function has ended is ready to run one again.
    Fiber* take(void (*function)());
    // Takes back a fiber whose function has ended. Returns whether its stack was large enough.
    bool give_back(Fiber* fiber);
    // Takes back all fibers, wherever they are. What they have on their stacks is forgotten.
    void abandon_all();

  private:
    void grow();

    std::vector<std::unique_ptr<Stacks>> stacks_;
    std::vector<std::unique_ptr<Fiber>> all_;
    std::vector<Fiber*> free_;
};

}  // namespace emulator
